"""Samples out of a model's reply: read as JSON, held to a schema, and none twice."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import jsonschema

from agents.hostile import clean, json_in

PIECE = 4
"Letters of the pieces by which two samples are compared."


def schema(labels: Sequence[str], query_characters: int) -> dict[str, Any]:
    """JSON schema of one sample."""
    return {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "maxLength": query_characters, "pattern": r"\S"},
            "label": {"type": "string", "enum": list(labels)},
        },
        "required": ["query", "label"],
        "additionalProperties": False,
    }


def read(reply: str, form: dict[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
    """-> (samples that fit the schema, what is wrong with the reply or the others)."""
    found = json_in(reply, list)
    if found is None:
        return [], ["there is no JSON list in the reply, or it is not whole"]
    validator = jsonschema.Draft202012Validator(form)
    samples, problems = [], [] if found else ["the list is empty"]
    for number, item in enumerate(found[:1000], 1):
        if isinstance(item, dict) and isinstance(item.get("query"), str):
            item = item | {"query": clean(item["query"], len(item["query"])).strip()}
        problem = next(iter(validator.iter_errors(item)), None)
        if problem is None:
            samples.append(item)
        else:
            where = ".".join(map(str, problem.absolute_path)) or "it"
            problems.append(f"item {number}: {where}: breaks {problem.validator}={str(problem.validator_value)[:100]}")
    return samples, problems


def key(query: str) -> str:
    """What is the same but for case, width, accents, marks and spaces has the same key."""
    folded = unicodedata.normalize("NFKD", query).casefold()
    return " ".join(re.findall(r"\w+", "".join(c for c in folded if not unicodedata.combining(c))))


class Seen:
    """The samples so far, to tell a new one from another wording of an old one."""

    def __init__(self, near: float) -> None:
        self.near = near
        self._keys: set[str] = set()
        self._pieces: list[frozenset[str]] = []

    def add(self, query: str) -> bool:
        """Whether it is new, by its key and by the Jaccard index of its pieces; a new one is remembered."""
        own = key(query) or query
        pieces = frozenset(own[i : i + PIECE] for i in range(max(1, len(own) - PIECE + 1)))
        if own in self._keys or any(self._alike(pieces, other) for other in self._pieces):
            return False
        self._keys.add(own)
        self._pieces.append(pieces)
        return True

    def _alike(self, one: frozenset[str], other: frozenset[str]) -> bool:
        common = len(one & other)
        return common >= self.near * (len(one) + len(other) - common)
