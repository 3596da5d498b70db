"""The review sheet: a CSV for people and spreadsheets, and the decisions of the dashboard's page in a file beside it.

A cell that a spreadsheet would take for a formula is written with a quote before it, and read back without.
"""

import csv
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from agents.config import Export
from infra.errors import R1Error
from infra.files import read_json, write_json, write_text

NAME = "review.csv"
COLUMNS = ("id", "query", "label", "decision")
DECISIONS = ("accept", "reject")
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_MOST_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Example: Sample("s0001", "Soup was cold.", "yes")."""

    id: str
    query: str
    label: str
    decision: str = ""
    "accept or reject; empty: nobody has said."


def write(path: Path, samples: list[Sample]) -> None:
    """The sheet, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    writer.writerows([quoted(getattr(sample, name)) for name in COLUMNS] for sample in samples)
    write_text(path, text.getvalue())


def read(path: Path) -> list[Sample]:
    """Samples with what was decided in the sheet and on the page: a reject of either counts. Raises as written does."""
    made = decisions(path)
    both = [(sample, {sample.decision, made.get(sample.id, "")}) for sample in written(path)]
    return [
        replace(sample, decision="reject" if "reject" in said else "accept" if "accept" in said else "")
        for sample, said in both
    ]


def written(path: Path) -> list[Sample]:
    """Samples as they stand in the sheet.

    Raises R1Error for a sheet that cannot be read, or whose decisions are others than accept and reject.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise R1Error(f"{path}: is too large for a sheet")
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise R1Error(f"{path}: cannot be read ({error}); give the review.csv of r1 datagen") from None
    samples = []
    for number, row in enumerate(rows, 2):
        if not set(COLUMNS) <= row.keys() or any(row[name] is None for name in COLUMNS):
            raise R1Error(f"{path}, row {number}: has not the columns {', '.join(COLUMNS)}; mend it")
        cells = {name: unquoted(row[name]) for name in COLUMNS}
        cells["decision"] = cells["decision"].strip().casefold()
        if cells["decision"] not in ("", *DECISIONS):
            raise R1Error(f"{path}, row {number}: a decision is {' or '.join(DECISIONS)}, or empty; mend it")
        samples.append(Sample(**cells))
    return samples


def decisions_path(sheet: Path) -> Path:
    """Where the page writes."""
    return sheet.with_suffix(".decisions.json")


def decisions(sheet: Path) -> dict[str, str]:
    """Sample -> accept or reject, as decided on the page. Raises R1Error where the file is broken."""
    path = decisions_path(sheet)
    try:
        made = read_json(path)
    except (OSError, ValueError, RecursionError):
        made = None
    if not isinstance(made, dict) or not all(value in DECISIONS for value in made.values()):
        raise R1Error(f"{path}: cannot be read; mend or delete it")
    return made


def decide(sheet: Path, sample: str, decision: str) -> None:
    """Note a decision of the page; an empty one takes it back. The sheet itself is not touched."""
    made = decisions(sheet) | {sample: decision}
    write_json(decisions_path(sheet), {name: value for name, value in made.items() if value})


def export(sheet: Path, what: Export) -> tuple[Path, int]:
    """Write the accepted samples beside the sheet; -> (path, how many). Raises R1Error where none is accepted."""
    accepted = [sample for sample in read(sheet) if sample.decision == "accept"]
    if not accepted:
        raise R1Error(f"{sheet}: no sample is accepted; accept some on the dashboard's page Review, or in the sheet")
    if what is Export.tests:
        path = sheet.with_suffix(".tests.jsonl")
        lines = [json.dumps({"query": s.query, "label": s.label}, ensure_ascii=False) for s in accepted]
        text = "\n".join(lines) + "\n"
    else:
        path = sheet.with_suffix(".few_shot.txt")
        text = "\n".join(f"Query: {' '.join(s.query.split())}\nLabel: {s.label}\n" for s in accepted)
    write_text(path, text)
    return path, len(accepted)


def quoted(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unquoted(cell: str) -> str:
    """The cell as it was."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
