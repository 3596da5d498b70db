"""Questions with one right answer each, of three sorts: reckoning, looking up, and tables."""

import random
import re
from dataclasses import dataclass
from enum import Enum

from agents import sql
from training.data import facts


class Sort(Enum):
    """What a question needs."""

    arithmetic = "reckoning"
    lookup = "the corpus"
    table = "the database"


@dataclass(frozen=True, slots=True)
class Question:
    """Example: Question("lookup-0", Sort.lookup, "What is the river of Bamiro?", "Keso")."""

    id: str
    sort: Sort
    text: str
    answer: str


def questions(count: int, seed: int) -> list[Question]:
    """`count` of each sort, the same for the same seed."""
    rng = random.Random(f"agents/{seed}")
    found = []
    for i in range(count):
        a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(100, 999)
        found.append(Question(f"arithmetic-{i}", Sort.arithmetic, f"What is {a} * {b} + {c}?", str(a * b + c)))
    for i, (country, relation, value) in enumerate(rng.choices(facts.facts(), k=count)):
        found.append(Question(f"lookup-{i}", Sort.lookup, f"What is the {relation} of {country}?", value))
    rows = sql.visits()
    for i in range(count):
        year = rng.choice(sql.YEARS)
        if i % 2:
            best = max((row for row in rows if row[1] == year), key=lambda row: row[2])
            found.append(Question(f"table-{i}", Sort.table, f"Which country had most visitors in {year}?", best[0]))
        else:
            country = rng.choice(rows)[0]
            total = sum(visitors for name, _, visitors in rows if name == country)
            text = f"How many visitors did {country} have in all years together?"
            found.append(Question(f"table-{i}", Sort.table, text, str(total)))
    return found


def is_right(answer: str, expected: str) -> bool:
    """Whether they are the same: numbers by value, words but for case, spaces and the marks around them.

    >>> is_right("1,234.", "1234"), is_right("The answer is 5", "5")
    (True, False)
    """
    plain = [" ".join(text.casefold().split()).strip(" .!?\"'`*") for text in (answer, expected)]
    numbers = [re.fullmatch(r"-?\d{1,18}(?:\.0{1,9})?", text.replace(",", "")) for text in plain]
    if all(numbers):
        return float(numbers[0][0]) == float(numbers[1][0])
    return plain[0] == plain[1]
