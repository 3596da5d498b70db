"""Rows of a data set: from JSONL, from Parquet, or from the Hub through `datasets`. Bad rows are named and counted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import ConfigError
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
    source: str, rows: Iterator[tuple[str, dict | BadRow]], parse: Callable[[dict], Row], *, bad_share: float
) -> list[Row]:
    """The rows as questions. rows: (where, row or what is wrong with it), as training/data/rows.py gives them.

    Left out, with a line that counts them and names the first: no JSON, no object, no question, no answer, an id seen
    before. Raises ConfigError where they are more than bad_share of all, and where nothing is left.
    """

    def named(row: dict) -> tuple[str, Row]:
        found = parse(row)
        return found.id or found.question, found

    return files.usable(source, rows, named, key="task.path", share_key="task.bad_rows", bad_share=bad_share)


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
