"""A run's metrics.jsonl as columns, read on from where the last look ended: a live run costs its new lines only."""

import contextlib
import errno
import io
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pj

BLOCK = 4 << 20
"Bytes that are parsed at a time."
ALWAYS = ("step", "tokens", "time")


@dataclass(frozen=True, slots=True)
class Columns:
    """name -> float64 [step], NaN where nothing was logged; step, tokens and time are always there. Never changed."""

    values: dict[str, np.ndarray]
    unreadable: int = 0
    "Lines that are no record."

    @property
    def names(self) -> list[str]:
        """The metrics, by name."""
        return sorted(self.values.keys() - set(ALWAYS))

    @property
    def bytes(self) -> int:
        """Of memory."""
        return sum(column.nbytes for column in self.values.values())

    def frame(self, names: Iterable[str] | None = None) -> pd.DataFrame:
        """step, tokens, time and the asked metrics that were logged (None: all); a row a step, in order."""
        wanted = self.names if names is None else [n for n in dict.fromkeys(names) if n in self.values]
        return pd.DataFrame({name: self.values[name] for name in (*ALWAYS, *wanted)}, copy=False)


EMPTY = Columns({name: np.empty(0) for name in ALWAYS})


class MetricsFile:
    """Lines {"step", "tokens", "time", "metrics": {name: value or null}}, appended while we read.

    A resumed run repeats steps: lines of one step are merged, the later value wins, null is no value. The last line
    counts once its newline is there. A file that got shorter or was replaced is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()  # sessions are threads and share this object
        self._restart()

    def _restart(self) -> None:
        self.offset, self.inode, self.columns = 0, None, EMPTY

    def read(self) -> Columns:
        """What is there now. A file that is not there yet is empty; OSError for one that cannot be read."""
        with self.lock:
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                self._restart()
                return self.columns
            with file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self.inode or stat.st_size < self.offset:
                    self._restart()
                    self.inode = stat.st_ino
                if stat.st_size > self.offset:
                    file.seek(self.offset)
                    self._read_on(file)
            return self.columns

    def _read_on(self, file: io.BufferedReader) -> None:
        parts, unreadable, rest = [], self.columns.unreadable, b""
        while block := file.read(BLOCK):
            block = rest + block
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                self.offset += end
                part, bad = parse(block[:end])
                parts.append(part)
                unreadable += bad
        if parts:
            self.columns = Columns(merged([self.columns.values, *parts]), unreadable)


class MetricsCache:
    """Open files by path; those not looked at for longest are dropped beyond `limit` bytes of columns."""

    def __init__(self, limit: int = 256 << 20) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.files: OrderedDict[str, MetricsFile] = OrderedDict()

    def read(self, path: Path) -> Columns:
        """The file's columns as they are now."""
        with self.lock:
            file = self.files.setdefault(str(path), MetricsFile(path))
            self.files.move_to_end(str(path))
        columns = file.read()
        with self.lock:
            total = sum(f.columns.bytes for f in self.files.values())
            while total > self.limit and len(self.files) > 1:
                total -= self.files.popitem(last=False)[1].columns.bytes
        return columns

    def read_ahead(self, paths: Iterable[Path], store: Path) -> None:
        """Read the files in the background; those that cannot be read, or lie outside of the store, are left."""

        def work() -> None:
            for path in paths:
                with contextlib.suppress(OSError):
                    self.read(inside(path, store))

        threading.Thread(target=work, name="read ahead", daemon=True).start()


def inside(path: Path, store: Path) -> Path:
    """The path itself; PermissionError when it is a link that leads out of the store."""
    if not path.resolve().is_relative_to(store.resolve()):
        raise PermissionError(errno.EACCES, "a link out of the run store", str(path))
    return path


def parse(block: bytes) -> tuple[dict[str, np.ndarray], int]:
    """Whole lines -> (name -> float64 [line], lines that are no record)."""
    try:
        return _parse_clean(block), 0
    except (pa.ArrowException, ValueError, RecursionError):
        return _parse_by_line(block)


def _parse_clean(block: bytes) -> dict[str, np.ndarray]:
    """Arrow's parser, three times as fast as json's; ValueError where any line is not as the tracker writes it."""
    options = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
    table = pj.read_json(io.BytesIO(block), read_options=options)
    step, metrics = table.column("step"), table.column("metrics")
    if not pa.types.is_integer(step.type) or not pa.types.is_struct(metrics.type):
        raise ValueError("not a record")
    if step.null_count or metrics.null_count:
        raise ValueError("a line without step or metrics")
    fields = {field.name: metrics.type.get_field_index(field.name) for field in metrics.type}
    arrays = metrics.combine_chunks().flatten()
    found = {name: arrays[index] for name, index in fields.items() if name not in ALWAYS}
    found |= {name: table.column(name).combine_chunks() for name in ("tokens", "time") if name in table.column_names}
    found["step"] = step.combine_chunks()
    empty = np.full(len(table), np.nan)
    columns = {name: empty for name in ALWAYS}
    for name, array in found.items():
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            column = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
            columns[name] = np.where(np.isfinite(column), column, np.nan)
    return columns


def _parse_by_line(block: bytes) -> tuple[dict[str, np.ndarray], int]:
    """The same for a block in which something is wrong: what is a record counts, the rest is counted."""
    records, bad = [], 0
    for line in block.splitlines():
        if line.strip():
            record = _record(line)
            records += [record] if record else []
            bad += record is None
    names = dict.fromkeys((*ALWAYS, *(name for record in records for name in record)))
    return {name: np.array([r.get(name, np.nan) for r in records], dtype=np.float64) for name in names}, bad


def _record(line: bytes) -> dict[str, float] | None:
    try:
        entry = json.loads(line)
        step = int(entry["step"])
        values = {**entry["metrics"], "step": step, "tokens": entry.get("tokens"), "time": entry.get("time")}
        return {name: float(value) for name, value in values.items() if _is_number(value)}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def merged(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of parts one behind the other, then one row a step, by step; of several values the last stays."""
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [len(part["step"]) for part in parts]
    columns = {}
    for name in names:
        pieces = [part.get(name, np.nan) for part in parts]
        columns[name] = np.concatenate([np.broadcast_to(p, n) for p, n in zip(pieces, lengths, strict=True)])
    steps = columns["step"]
    if (np.diff(steps) > 0).all():
        return columns
    unique, place = np.unique(steps, return_inverse=True)
    for name, column in columns.items():
        there = ~np.isnan(column)
        columns[name] = np.full(len(unique), np.nan)
        columns[name][place[there]] = column[there]  # of repeated places the last is kept
    return columns


def from_records(records: Iterable[tuple[str, int, float, float]]) -> Columns:
    """(metric, step, seconds, value) of MLflow as columns; train/tokens is what it calls the tokens."""
    by_step: dict[int, dict[str, float]] = {}
    for name, step, seconds, value in records:
        row = by_step.setdefault(step, {"step": step})
        row |= {name: value, "time": seconds}
        if name == "train/tokens":
            row["tokens"] = value
    rows = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys((*ALWAYS, *(name for row in rows for name in row)))
    return Columns({name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
