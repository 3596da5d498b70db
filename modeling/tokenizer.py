"""Byte-level BPE as DeepSeek-V3's tokenizer has it (V3 §4.1): digits in groups of up to three, marks apart.

R1's four tags are special tokens, so that no merge ever crosses them.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from infra.errors import CheckpointError, ConfigError

EOS, PAD = "<eos>", "<pad>"
SPECIAL = (PAD, EOS, "<think>", "</think>", "<answer>", "</answer>")
_FILE = "tokenizer.json"
_DIGITS = Regex(r"\p{N}{1,3}")
# Line breaks, runs of letters, marks one by one, each with the space before it: `3+5=8: +8` is seven tokens.
_PIECES = Regex(r"\r?\n| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]|\s+")


class Tokenizer:
    """Text to ids and back; special tokens in the text are recognised, none is added."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
        missing = [text for text, id_ in ids.items() if id_ is None]
        if missing:
            raise CheckpointError(f"{_FILE}: has no {' '.join(missing)}; give a tokenizer that r1 pretrain made")
        self.pad_id, self.eos_id = ids[PAD], ids[EOS]
        self.think_id, self.think_end_id = ids["<think>"], ids["</think>"]
        self.answer_id, self.answer_end_id = ids["<answer>"], ids["</answer>"]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn at most vocab_size tokens from texts. Raises ConfigError for less than the bytes need."""
        least = 256 + len(SPECIAL)
        if vocab_size < least:
            raise ConfigError(
                "pretrain.tokenizer_vocab", vocab_size, "bytes and special tokens do not fit", f"set {least} or more"
            )
        tokenizer = HFTokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_DIGITS, "isolated"),
                pre_tokenizers.Split(_PIECES, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """From a Hugging Face folder, a run, or a checkpoint of one. Raises CheckpointError where there is none."""
        folder = Path(folder)
        run = folder.parent.parent  # of run/checkpoints/step_00000100
        path = next((p / _FILE for p in (folder, folder / "model", run) if (p / _FILE).exists()), None)
        if path is None:
            raise CheckpointError(f"{folder}: holds no {_FILE}; give the folder of a model that r1 pretrain made")
        try:
            return cls(HFTokenizer.from_file(str(path)))
        except CheckpointError:
            raise
        except Exception as error:  # the Rust library raises bare Exception for files it cannot read
            raise CheckpointError(f"{path}: cannot be read: {error}; copy it again from the model's source") from error

    def save(self, folder: Path) -> None:
        """Write folder/tokenizer.json, whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{_FILE}.tmp"
        self._tokenizer.save(str(scratch))
        os.replace(scratch, folder / _FILE)

    @property
    def num_tokens(self) -> int:
        """Tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text, special tokens included; bytes that are no UTF-8 become the replacement character."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)
