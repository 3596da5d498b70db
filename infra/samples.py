"""Samples of a run as Parquet, one file per step, written by a thread of their own."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

_KEPT = 50
"Steps that wait in memory for a disk that is full; older ones are dropped."


class SampleWriter:
    """Writes folder/step_{step:06d}.parquet; a file is whole or not there. warn(kind, line) gets the trouble."""

    def __init__(self, folder: Path, warn: Callable[[str, str], None]) -> None:
        self._folder, self._warn = folder, warn
        self._queue: queue.Queue[tuple[int, list[dict[str, Any]]] | None] = queue.Queue()
        self._waiting: deque[tuple[int, list[dict[str, Any]]]] = deque(maxlen=_KEPT)
        self._thread: threading.Thread | None = None

    def put(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Returns at once. A step that is written again (after a resume) replaces its file. No rows: no file."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="samples", daemon=True)
            self._thread.start()
        if rows:
            self._queue.put((step, rows))

    def close(self) -> None:
        """Wait until everything is written."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._waiting.append(item)
            self._write_waiting()
        if self._waiting:
            self._write_waiting()
        if self._waiting:
            self._warn(
                "samples lost",
                f"{self._folder}: samples of {len(self._waiting)} steps could not be written and are lost",
            )

    def _write_waiting(self) -> None:
        import pyarrow  # 0.3 s, and only this thread needs it

        while self._waiting:
            step, rows = self._waiting[0]
            try:
                write_parquet(self._folder / f"step_{step:06d}.parquet", rows)
            except OSError as error:
                line = f"samples of step {step} not written ({error}); training goes on, and they are tried again"
                self._warn("samples", line)
                return
            except pyarrow.ArrowException as error:  # rows that are no table will not become one by waiting
                self._warn(
                    "samples shape", f"samples of step {step} cannot be written as Parquet ({error}); training goes on"
                )
            self._waiting.popleft()


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as one zstd Parquet file; a key that a row lacks is null there. OSError or pyarrow.ArrowException."""
    import pyarrow
    import pyarrow.parquet

    names = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
