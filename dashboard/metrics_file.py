"""A run's metrics.jsonl, read on from where the last look ended: a live run costs its new lines only."""

import json
import math
import os
import threading
from pathlib import Path

import pandas as pd


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
        self.offset, self.inode, self.unreadable = 0, None, 0
        self.records: dict[int, dict[str, float]] = {}
        self.frame = self.empty()

    def read(self) -> tuple[pd.DataFrame, int]:
        """(one row a step, number of lines that are no record). A file that is not there yet is empty."""
        with self.lock:
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                self._restart()
                return self.frame, 0
            with file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self.inode or stat.st_size < self.offset:
                    self._restart()
                    self.inode = stat.st_ino
                file.seek(self.offset)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            if new:
                self.offset += len(new)
                for line in new.splitlines():
                    if line.strip() and not self._add(line):
                        self.unreadable += 1
                self.frame = self.frame_of(self.records)
            return self.frame, self.unreadable

    def _add(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
            step = int(entry["step"])
            values = {**entry["metrics"], "step": step, "tokens": entry.get("tokens"), "time": entry.get("time")}
            record = {name: float(value) for name, value in values.items() if _is_number(value)}
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return False
        self.records.setdefault(step, {}).update(record)
        return True

    @staticmethod
    def frame_of(records: dict[int, dict[str, float]]) -> pd.DataFrame:
        """step -> {name: value} as a frame by step, with columns step, tokens and time always there."""
        frame = pd.DataFrame.from_records(list(records.values())).reindex(sorted_columns(records), axis=1)
        return frame.astype({name: "float64" for name in frame.columns}).sort_values("step", ignore_index=True)

    @classmethod
    def empty(cls) -> pd.DataFrame:
        """No rows, the three columns."""
        return cls.frame_of({})


def sorted_columns(records: dict[int, dict[str, float]]) -> list[str]:
    """step, tokens, time, then the metrics by name."""
    names = {name for record in records.values() for name in record}
    return ["step", "tokens", "time", *sorted(names - {"step", "tokens", "time"})]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
