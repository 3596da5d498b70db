"""Rows of JSONL and Parquet files, each with where it stands; without torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import ConfigError

SUFFIXES = (".jsonl", ".parquet")


class BadRow(ValueError):
    """A row that cannot be used; the message says why."""


def read(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """("file:line", the row, or what is wrong with it) of every row; empty lines are no rows.

    Raises ConfigError, naming the setting `key`, for a file that is not there, is neither, or is broken as a whole.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(key, path, "there is no such file", "give a .jsonl or .parquet file")
    if path.suffix not in SUFFIXES:
        raise ConfigError(key, path, "is neither .jsonl nor .parquet", "convert it to one of them")
    rows = _parquet(path, key) if path.suffix == ".parquet" else _jsonl(path)
    for where, row in rows:
        yield where, row if isinstance(row, dict | BadRow) else BadRow("is no object of named values")


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{path.name}:{number}", BadRow(f"is no JSON ({str(error).splitlines()[0][:100]})")


def _parquet(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0][:100]
        raise ConfigError(key, path, f"cannot be read as Parquet ({reason})", "write it again") from None
    for number, row in enumerate(rows, 1):
        yield f"{path.name}:{number}", row
