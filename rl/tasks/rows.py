"""Rows of a data set: from JSONL, from Parquet, or from the Hub through `datasets`. Bad rows are named and counted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.progress import say
from training.data import rows as files
from training.data.rows import BadRow


@dataclass(slots=True)
class Row:
    """One question with its right answer."""

    question: str
    answer: str
    id: str = ""
    "Its own, where the data set gives one; no two rows share it."
    meta: dict = field(default_factory=dict)
    "What the judge needs besides; plain JSON types."


def read_rows(
    source: str, rows: Iterator[tuple[str, Any]], parse: Callable[[dict], Row], *, bad_share: float
) -> list[Row]:
    """The rows as questions. rows: (where, row or what is wrong with it), as training/data/rows.py gives them.

    Left out, with a line that counts them and names the first: no JSON, no object, no question, no answer, an id seen
    before. Raises ConfigError where they are more than bad_share of all, and where nothing is left.
    """
    good: list[Row] = []
    bad: list[str] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            found = parse(row)
            name = found.id or found.question
            if name in seen:
                raise BadRow(f"has the id of {seen[name]} ({_short(name)})")
            seen[name] = where
            good.append(found)
        except BadRow as error:
            bad.append(f"{where} {error}")
    total = len(good) + len(bad)
    named = "; ".join(bad[:3]) + (f"; {len(bad) - 3} more" if len(bad) > 3 else "")
    if len(bad) > bad_share * total:
        problem = f"{len(bad)} of {total} rows cannot be used: {named}"
        raise ConfigError("task.path", source, problem, f"mend them, or set task.bad_rows={len(bad) / total:.2g}")
    if not good:
        raise ConfigError("task.path", source, "has no rows", "give a data set with questions and answers")
    if bad:
        say(f"{source}: {len(bad)} of {total} rows are left out: {named}")
    return good


def read_file(path: Path, parse: Callable[[dict], Row], *, bad_share: float) -> list[Row]:
    """The rows of a .jsonl or .parquet file. Raises ConfigError as read_rows does, and for a file that is neither."""
    rows = files.read(path, "task.path")
    return read_rows(str(path), rows, parse, bad_share=bad_share)


def read_hub(name: str, config: str | None, split: str, parse: Callable[[dict], Row], *, bad_share: float) -> list[Row]:
    """The rows of a data set of the Hub, or of a folder that `datasets` can read.

    Raises ConfigError where it cannot be had.
    """
    import datasets  # seconds

    try:
        table = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # its own errors, the Hub's, the network's: all say that there is no data set
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        remedy = "give local files with task.path=<.jsonl or .parquet file, or a folder of them>"
        raise ConfigError("task.path", "", f"data set {name} cannot be read ({why})", remedy) from error
    rows = ((f"{name} {split}:{i}", row) for i, row in enumerate(table, 1))
    return read_rows(name, rows, parse, bad_share=bad_share)


def column(row: dict, *names: str) -> str:
    """The first of these columns that holds something, as text; 27.0 is "27". Empty where none does.

    Names compare without case and without blanks.
    """
    there = {key.lower().replace(" ", "_"): value for key, value in row.items() if isinstance(key, str)}
    for name in names:
        value = there.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
