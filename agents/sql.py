"""Questions to a SQLite file in a model's own SQL, which may read and nothing else.

Four locks, each enough for writes: the file is opened read-only, the connection is told so, an authorizer refuses all
but SELECT and READ while a statement is compiled, and sqlite3 takes one statement at a time.
"""

import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rl.sandbox.session import ToolError
from training.data import facts

YEARS = (2021, 2022, 2023)
FUNCTIONS = frozenset(
    "abs avg coalesce count ifnull length like lower max min nullif round sign substr substring sum total trim "
    "upper".split()
)
"Functions that cost no more than the rows they read: printf and zeroblob make gigabytes of nothing."
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 5000,
    sqlite3.SQLITE_LIMIT_COLUMN: 50,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
SCHEMA = """CREATE TABLE countries (name TEXT PRIMARY KEY, capital TEXT, river TEXT, animal TEXT, dish TEXT);
CREATE TABLE visits (country TEXT REFERENCES countries (name), year INTEGER, visitors INTEGER);"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query; strings in them are the file's."""

    columns: tuple[str, ...]
    rows: list[tuple]
    more: bool
    "Whether there were more than were taken."

    def __str__(self) -> str:
        lines = [" | ".join(self.columns), *(" | ".join(str(cell)[:200] for cell in row) for row in self.rows)]
        return "\n".join([*lines, "[more rows]"] if self.more else lines)


def visits() -> list[tuple[str, int, int]]:
    """(country, year, visitors) of the made-up world, always the same."""
    rng = random.Random("visits")
    countries = list(dict.fromkeys(country for country, _, _ in facts.facts()))
    numbers = rng.sample(range(1000, 100_000), len(countries) * len(YEARS))  # no two alike: no ties
    return [(country, year, numbers.pop()) for country in countries for year in YEARS]


def make_database(path: Path) -> Path:
    """The world as a SQLite file, in place of what is there."""
    path.unlink(missing_ok=True)
    rows: dict[str, dict[str, str]] = {}
    for country, relation, value in facts.facts():
        rows.setdefault(country, {})[relation] = value
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(SCHEMA)
        values = [(name, *(row[relation] for relation in facts.RELATIONS)) for name, row in rows.items()]
        connection.executemany("INSERT INTO countries VALUES (?, ?, ?, ?, ?)", values)
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?)", visits())
    connection.close()
    return path


def query(path: Path, text: str, *, max_rows: int = 20, seconds: float = 2.0) -> Answer:
    """Run one SELECT. Raises ToolError for anything else, for a mistake in it, and at the time limit."""
    if not isinstance(text, str):
        raise ToolError("SQL is a text")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise ToolError(f"SQL refused: {error}") from None
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA temp_store = 2")  # in memory: a sort writes no file, either
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
        connection.set_authorizer(_allowed)
        cursor = connection.execute(text)
        if cursor.description is None:
            raise ToolError("only a SELECT is run")
        rows = cursor.fetchmany(max_rows + 1)
        return Answer(tuple(column[0] for column in cursor.description), rows[:max_rows], len(rows) > max_rows)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # ValueError: a null character in it
        said = str(error)
        reason = f"it took longer than {seconds:g} s" if "interrupted" in said else said
        reason = "only reading is allowed" if "not authorized" in said or "prohibited" in said else reason
        raise ToolError(f"SQL refused: {reason[:300]}") from None
    finally:
        connection.close()


def _allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    reads = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    calls = action == sqlite3.SQLITE_FUNCTION and (second or "").casefold() in FUNCTIONS
    return sqlite3.SQLITE_OK if reads or calls else sqlite3.SQLITE_DENY
