"""Rows of JSONL and Parquet files, each with where it stands; unusable ones are named and counted. Without torch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.progress import say

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


def usable[T](
    source: object,
    rows: Iterable[tuple[str, dict[str, Any] | BadRow]],
    parse: Callable[[dict[str, Any]], tuple[str, T]],
    *,
    key: str,
    share_key: str,
    bad_share: float,
) -> list[T]:
    """What parse makes of the rows; it raises BadRow, or gives (the row's own id, or empty for none; what it made).

    Left out, with a line that counts them and names the first: bad rows, and an id seen before. source: the file or
    data set, named by the setting `key`. Raises ConfigError where they are more than bad_share (the setting share_key)
    of all, and where nothing is left.
    """
    good: list[T] = []
    bad: list[str] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            name, made = parse(row)
            if name and name in seen:
                raise BadRow(f"has the id of {seen[name]} ({name if len(name) <= 40 else name[:37] + '...'})")
        except BadRow as error:
            bad.append(f"{where}: {error}")
            continue
        seen[name] = where
        good.append(made)
    total = len(good) + len(bad)
    named = "; ".join(bad[:3]) + (f"; {len(bad) - 3} more" if len(bad) > 3 else "")
    if len(bad) > bad_share * total:
        remedy = "mend them" + (f", or set {share_key}={len(bad) / total:.2g}" if good else "")
        raise ConfigError(key, source, f"{len(bad)} of {total} rows cannot be used: {named}", remedy)
    if not good:
        raise ConfigError(key, source, "has no rows", "give a data set that has some")
    if bad and os.environ.get("RANK", "0") == "0":  # every rank reads; one speaks
        say(f"{source}: {len(bad)} of {total} rows are left out: {named}")
    return good


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
