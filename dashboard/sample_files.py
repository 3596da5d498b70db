"""Answers that a run kept: samples/step_*.parquet and evaluations/step_*.parquet, by step, by column, by row."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import streamlit as st

COLUMNS = ("question_id", "task", "prompt", "answer_key", "group", "text", "reward", "advantage")
COLUMNS += ("response_tokens", "thinking_tokens", "stopped", "reflects", "version")
NUMBERS = {"step", "group", "reward", "advantage", "response_tokens", "thinking_tokens", "version"}
FLAGS = {"stopped", "reflects"}
LISTS = {"tokens", "sampler_logprobs", "trainer_logprobs", "entropies"}
"One value a token: read only where asked for by name, as they are several times as large as the texts."
KINDS = {"training": "samples", "held-out": "evaluations"}
"Whose answers -> their folder in the run's folder."
PARTS = "reward_"
"What the columns of the reward's parts start with."
OUTCOMES = ("correct", "wrong", "truncated")


class Unreadable(Exception):
    """A file of a run cannot be shown; the message is one line for the page."""


def files(folder: Path | None, kind: str) -> dict[int, Path]:
    """step -> file, by step; links are left out, so that nothing outside of the run's folder is found."""
    found = {}
    if folder is None or (folder / KINDS[kind]).is_symlink():
        return found
    try:
        with os.scandir(folder / KINDS[kind]) as entries:
            for entry in entries:
                number = re.fullmatch(r"step_(\d{1,12})\.parquet", entry.name)
                if number and entry.is_file(follow_symlinks=False):
                    found[int(number[1])] = Path(entry.path)
    except OSError:  # none yet, or not ours to read
        return {}
    return dict(sorted(found.items()))


def read(path: Path, columns: Sequence[str] | None = None, *, question: str | None = None) -> pd.DataFrame:
    """A step's answers; None or NaN where a column is missing. Unreadable when half-written or no Parquet.

    columns: those wanted, by default COLUMNS and the reward's parts (reward_*), without the lists of tokens.
    question: only the answers to it; other rows are left on disk where the file's statistics allow.
    """
    try:
        stat = path.stat()
        return _read(str(path), stat.st_mtime_ns, stat.st_size, tuple(columns) if columns else None, question)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise Unreadable(f"{path.name} can't be read: half-written, damaged, or not Parquet.") from error


@st.cache_data(show_spinner=False, max_entries=64)
def _read(path: str, modified_ns: int, size: int, columns: tuple[str, ...] | None, question: str | None):
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
    wanted = columns or (*COLUMNS, *(name for name in names if name.startswith(PARTS)))
    there = [name for name in wanted if name in names]
    rows = None if question is None or "question_id" not in names else pc.field("question_id") == question
    table = pq.read_table(path, columns=there, filters=rows, use_threads=False, partitioning=None)
    return pd.DataFrame({name: _column(table, name) for name in wanted})


def _column(table: pa.Table, name: str) -> pd.Series:
    if name not in table.column_names:
        return pd.Series([None] * len(table), dtype=object)
    values = table[name]
    if name in NUMBERS or name.startswith(PARTS):
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            return values.to_pandas()
        return pd.to_numeric(pd.Series(values.to_pylist(), dtype=object), errors="coerce")
    if name in FLAGS or (name in LISTS and not pa.types.is_list(values.type)):
        return pd.Series(values.to_pylist(), dtype=object)
    if pa.types.is_list(values.type):
        inner = _decoded(values.combine_chunks().flatten())
        ends = np.cumsum(pc.fill_null(pc.list_value_length(values), 0).to_numpy())
        return pd.Series(
            [inner[end - n : end] for end, n in zip(ends, np.diff(ends, prepend=0), strict=True)], dtype=object
        )
    return pd.Series(_decoded(values), dtype=object)


def _decoded(column: pa.ChunkedArray | pa.Array) -> list:
    """Values as Python has them; bytes of strings that are no UTF-8 become U+FFFD instead of an error."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return column.to_pylist()
    values = column.to_pylist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else None if v is None else str(v) for v in values]


def outcome(frame: pd.DataFrame) -> pd.Series:
    """correct, truncated (not correct, and the length limit ended it), wrong, or None where nobody judged."""
    right = frame["reward_accuracy"] == 1.0
    cut = ~right & (frame["stopped"] == False)  # noqa: E712  None is neither
    wrong = ~right & ~cut & frame["reward_accuracy"].notna()
    return pd.Series(np.select([right, wrong, cut], OUTCOMES, default=None), index=frame.index, dtype=object)


MEASURED = ("response_tokens", "thinking_tokens", "reward_accuracy", "stopped")


def measured(path: Path) -> pd.DataFrame:
    """MEASURED columns of a step and `outcome`; small, and kept long."""
    try:
        stat = path.stat()
        return _measured(str(path), stat.st_mtime_ns, stat.st_size)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise Unreadable(f"{path.name} can't be read: half-written, damaged, or not Parquet.") from error


@st.cache_resource(show_spinner=False, max_entries=4000)  # shared, and copied by those who add to it
def _measured(path: str, modified_ns: int, size: int) -> pd.DataFrame:
    frame = _read.__wrapped__(path, modified_ns, size, MEASURED, None)
    return frame.assign(outcome=outcome(frame))
