"""What research and retrieval read: the made-up world's facts (training/data/facts.py), this README by paragraphs."""

import re
from dataclasses import dataclass
from pathlib import Path

from training.data import facts

README = Path(__file__).resolve().parents[1] / "README.md"


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and where it stands."""

    source: str
    "As in world/Bamiro or README.md#Code."
    text: str


def passages() -> list[Passage]:
    """One for each country, one for each paragraph of the README where that is there."""
    told: dict[str, list[str]] = {}
    for fact in facts.facts():
        told.setdefault(fact[0], []).append(facts.statement(*fact))
    found = [Passage(f"world/{country}", " ".join(said)) for country, said in told.items()]
    if README.is_file():
        for section in re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title, _, text = section.partition("\n")
            paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
            found += [Passage(f"README.md#{title.strip()}", paragraph) for paragraph in paragraphs if paragraph]
    return found
