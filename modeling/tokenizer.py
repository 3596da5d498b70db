"""Byte-level BPE as DeepSeek-V3's tokenizer has it (V3 §4.1): digits in groups of up to three, marks apart.

R1's four tags are special tokens, so that no merge ever crosses them. A model from elsewhere keeps its own tokenizer,
end tokens and chat template; what of the tags is no token of its own there is looked for in the text.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from infra.errors import CheckpointError, ConfigError

EOS, PAD = "<eos>", "<pad>"
SPECIAL = (PAD, EOS, "<think>", "</think>", "<answer>", "</answer>")
ANSWER_END = "</answer>"
_FILE = "tokenizer.json"
_SETTINGS, _GENERATION, _TEMPLATE = "tokenizer_config.json", "generation_config.json", "chat_template.jinja"
_BESIDE = (_SETTINGS, _GENERATION, _TEMPLATE, "special_tokens_map.json")
"What belongs to a tokenizer from elsewhere, as text."
FILES = (_FILE, *_BESIDE, "added_tokens.json", "vocab.json", "merges.txt", "*.model")
"Every file that a tokenizer may consist of, as patterns."
_DIGITS = Regex(r"\p{N}{1,3}")
# Line breaks, runs of letters, marks one by one, each with the space before it: `3+5=8: +8` is seven tokens.
_PIECES = Regex(r"\r?\n| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]|\s+")


class Tokenizer:
    """Text to ids and back; special tokens in the text are recognised, none is added.

    pad_id, eos_id; think_id, think_end_id, answer_id, answer_end_id: the tags' ids, None where a tag is no token.
    is_own: whether r1 pretrain made it.
    """

    def __init__(self, tokenizer: HFTokenizer, beside: dict[str, str] | None = None) -> None:
        self._tokenizer, self._beside = tokenizer, beside or {}
        ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
        self.is_own = None not in ids.values()
        self._settings = self._read(_SETTINGS)
        if self.is_own:
            self.pad_id, ends = ids[PAD], [ids[EOS]]
        else:
            ends = self._ends()
            self.pad_id = tokenizer.token_to_id(self._text_of("pad_token"))
            self.pad_id = ends[0] if self.pad_id is None else self.pad_id
        self.eos_id, self._end_ids = ends[0], set(ends)
        self.think_id, self.think_end_id = ids["<think>"], ids["</think>"]
        self.answer_id, self.answer_end_id = ids["<answer>"], ids[ANSWER_END]

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._beside.get(name, "{}"))
        except ValueError as error:
            raise CheckpointError(f"{name}: is no JSON ({error}); copy it again from the model's source") from None
        return found if isinstance(found, dict) else {}

    def _text_of(self, key: str) -> str:
        """A special token by its role; empty where the model has none."""
        value = self._settings.get(key) or ""
        return value["content"] if isinstance(value, dict) else value

    def _ends(self) -> list[int]:
        """Ids that end an answer: the tokenizer's own end first, then those that generation_config.json adds."""
        ends = self._read(_GENERATION).get("eos_token_id") or []
        found = self._tokenizer.token_to_id(self._text_of("eos_token"))
        ends = ([] if found is None else [found]) + (ends if isinstance(ends, list) else [ends])
        if not ends:
            raise CheckpointError(
                f"{_FILE}: neither {_SETTINGS} nor {_GENERATION} beside it names an end token; copy them from the "
                "model's source, or give a model that r1 pretrain made"
            )
        return list(dict.fromkeys(ends))

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
            raise CheckpointError(
                f"{folder}: holds no {_FILE}; give a model that r1 pretrain made, or one with the tokenizers library's "
                "file (transformers writes it by save_pretrained)"
            )
        beside = {name: (path.parent / name).read_text() for name in _BESIDE if (path.parent / name).exists()}
        try:
            return cls(HFTokenizer.from_file(str(path)), beside)
        except CheckpointError as error:
            raise CheckpointError(f"{path.parent}/{error}") from None
        except Exception as error:  # the Rust library raises bare Exception for files it cannot read
            raise CheckpointError(f"{path}: cannot be read: {error}; copy it again from the model's source") from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and what belongs to it into folder, each file whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {**self._beside, _FILE: self._tokenizer.to_str(pretty=True)}.items():
            scratch = folder / f".{name}.tmp"
            scratch.write_text(text)
            os.replace(scratch, folder / name)

    @property
    def num_tokens(self) -> int:
        """Tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    @property
    def stop_ids(self) -> set[int]:
        """Tokens after which an answer is over."""
        return self._end_ids if self.answer_end_id is None else {*self._end_ids, self.answer_end_id}

    @property
    def end_ids(self) -> set[int]:
        """Those of stop_ids that are no part of what is said."""
        return set(self._end_ids)

    @property
    def stop_text(self) -> str:
        """Text after which an answer is over, where no token of stop_ids says so; empty for none."""
        return ANSWER_END if self.answer_end_id is None else ""

    @property
    def start(self) -> str:
        """What a text begins with, as in "<|begin_of_text|>"; empty where the model has been trained without."""
        if self.is_own:
            return ""
        first = self._tokenizer.encode("", add_special_tokens=True).ids
        if self._settings.get("add_bos_token") or first:
            return self._text_of("bos_token")
        return ""

    @property
    def has_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.chat_template)

    def chat(self, message: str) -> str:
        """The user's message as the model's chat template renders it, up to where the answer begins.

        The template comes with the model and runs in Jinja's sandbox. Raises CheckpointError for one that fails.
        """
        from modeling.chat_template import render

        return render(self.chat_template, message, self.special_texts)

    @property
    def special_texts(self) -> dict[str, str]:
        """What a chat template may name: special tokens by role."""
        return {name: self._text_of(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}

    @property
    def chat_template(self) -> str:
        """The model's chat template (Jinja); empty where it has none."""
        template = self._beside.get(_TEMPLATE) or self._settings.get("chat_template") or ""
        if isinstance(template, list):  # several by name
            template = next((one["template"] for one in template if one.get("name") == "default"), "")
        return template

    def pieces(self) -> list[str]:
        """The text of each token by itself; part of a character is U+FFFD."""
        return self._tokenizer.decode_batch([[i] for i in range(self.num_tokens)], skip_special_tokens=False)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text, special tokens included; bytes that are no UTF-8 become the replacement character."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)
