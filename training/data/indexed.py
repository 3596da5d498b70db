"""A corpus of one's own: documents as token files on disk, in Megatron's format, read by row.

Megatron's dataset cuts the shuffled documents into rows of equal length, end to end (V3 §4.1); which documents make
row i follows from the seed alone, so where a run stands is one number, and a rank reads the rows it trains on and no
others.
"""

import logging
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import CheckpointError, ConfigError
from modeling.tokenizer import Tokenizer

KEY = "pretrain.data"
_SHARES = "pretrain.data_shares"


@dataclass(frozen=True, slots=True)
class _Ids:
    """What Megatron's dataset asks of a tokenizer."""

    eod: int
    pad: int
    vocab_size: int

    @property
    def unique_identifiers(self) -> dict[str, int]:
        return {"eod": self.eod, "vocab_size": self.vocab_size}


class Rows(Sequence):
    """Rows first to first + number of a dataset, each tokens + 1 ids; read when asked for."""

    def __init__(self, dataset: Any, first: int, number: int) -> None:
        self._dataset, self._first, self._number = dataset, first, number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]
        if not 0 <= index < self._number:
            raise IndexError(index)
        row = self._dataset[self._first + index]
        return [*row["tokens"].tolist(), int(row["labels"][-1])]


class IndexedStream:
    """The rows of a run in their order, resumable at the exact row."""

    def __init__(self, dataset: Any, row_tokens: int, seed: int) -> None:
        self._dataset, self.row_tokens, self.seed, self.position = dataset, row_tokens, seed, 0

    def next_rows(self, number: int, tokens: int) -> Rows:
        """The next rows, of `tokens` labels each. Raises ConfigError where the data ends before."""
        assert tokens == self.row_tokens
        if self.position + number > len(self._dataset):
            have = len(self._dataset) * self.row_tokens
            raise ConfigError(KEY, "", f"there are {have:,} tokens to read", "set pretrain.tokens to less, or add data")
        rows = Rows(self._dataset, self.position, number)
        self.position += number
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Plain types, the same on every rank."""
        return {"seed": self.seed, "rows": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last row given out. Raises CheckpointError for a checkpoint of another corpus or seed."""
        if "rows" not in state:
            raise CheckpointError(f"the checkpoint reads the made corpus, this run {KEY}: start a new run folder")
        if state["seed"] != self.seed:
            raise CheckpointError(
                f"the checkpoint reads its data with seed {state['seed']}, this run with {self.seed}: "
                f"set run.seed={state['seed']} or start a new run folder"
            )
        self.position = int(state["rows"])


def open_streams(
    prefixes: Sequence[str],
    shares: Sequence[float],
    *,
    held_out: float,
    rows: int,
    held_out_rows: int,
    row_tokens: int,
    tokenizer: Tokenizer,
    seed: int,
    cache: Path,
) -> tuple[IndexedStream, IndexedStream]:
    """Streams to train on and to evaluate on, which share no document.

    prefixes: files without .bin and .idx; shares: of the rows, by prefix; empty: by size. rows, held_out_rows: how many
    will be read. cache: a folder that every rank sees; the order of documents is kept there. Every rank calls it, after
    parallel.init. Raises ConfigError for files that are not there, empty or no such files, and ids beyond the
    tokenizer's.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    for prefix in prefixes:
        _check(prefix, tokenizer)
    logging.getLogger("megatron.core.datasets").setLevel(logging.ERROR)
    cfg = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=row_tokens,
        blend=(list(prefixes), list(shares) or None),
        split=f"{1 - held_out},{held_out},0",
        path_to_cache=str(cache),
        tokenizer=_Ids(tokenizer.eos_id, -1, tokenizer.num_tokens),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [rows, held_out_rows, 0], lambda: True, cfg)
    train, unseen, _ = builder.build()
    if train is None or unseen is None:
        problem = "there are too few documents to hold some out"
        raise ConfigError("pretrain.held_out_share", held_out, problem, "add data, or set a larger share")
    return IndexedStream(train, row_tokens, seed), IndexedStream(unseen, row_tokens, seed)


def _check(prefix: str, tokenizer: Tokenizer) -> None:
    """One pair of files: there, readable, not empty, and of this tokenizer as far as its first ids tell."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    remedy = "r1 tokenize makes such files"
    for suffix in (".bin", ".idx"):
        if not Path(prefix + suffix).is_file():
            raise ConfigError(KEY, prefix, f"there is no {prefix}{suffix}", remedy)
    try:
        dataset = IndexedDataset(prefix)
        lengths = dataset.sequence_lengths
        if Path(prefix + ".bin").stat().st_size != int(lengths.sum()) * dataset.index.dtype_size:
            raise ValueError("the two files are not of one length")
    except (ValueError, AssertionError, OSError, struct.error) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else "broken index"
        raise ConfigError(KEY, prefix, f"cannot be read ({reason})", remedy) from None
    if not len(lengths):
        raise ConfigError(KEY, prefix, "holds no document", remedy)
    largest = max(int(np.max(dataset[i])) for i in range(min(100, len(lengths))) if lengths[i])
    if largest >= tokenizer.num_tokens:
        problem = f"holds token {largest}, the tokenizer has {tokenizer.num_tokens}"
        raise ConfigError(KEY, prefix, problem, "give the tokenizer the files were made with (pretrain.tokenizer)")


def write(texts: Iterable[str], tokenizer: Tokenizer, prefix: Path, *, chunk: int = 256) -> tuple[int, int]:
    """Tokenise texts into prefix.bin and prefix.idx, <eos> behind each; -> documents, tokens.

    Both appear whole or not at all.
    """
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    prefix.parent.mkdir(parents=True, exist_ok=True)
    scratch = {suffix: prefix.with_name(f".{prefix.name}.tmp{suffix}") for suffix in (".bin", ".idx")}
    builder = IndexedDatasetBuilder(str(scratch[".bin"]), dtype=DType.optimal_dtype(tokenizer.num_tokens))
    documents = tokens = 0
    try:
        for batch in _chunks(texts, chunk):
            for ids in tokenizer.encode_batch(batch):
                builder.add_document(np.array([*ids, tokenizer.eos_id]), [len(ids) + 1])
                documents, tokens = documents + 1, tokens + len(ids) + 1
        builder.finalize(str(scratch[".idx"]))
        for suffix, path in scratch.items():
            os.replace(path, f"{prefix}{suffix}")
    finally:
        for path in scratch.values():
            path.unlink(missing_ok=True)
    return documents, tokens


def _chunks(items: Iterable[str], size: int) -> Iterable[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
