"""Removes from a training set what holds a test question (DeepSeekMath §2.1).

A text that shares a run of 10 words with a test question is dropped; a question of 3 to 9 words has to stand in it
whole; shorter ones are in too much to say anything. A word is a run of letters or digits, a Chinese character, or a
mark other than , . ; : ? ! and quotes; case does not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

N, LEAST = 10, 3
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|[^\w\s,.;:?!'\"，。；：？！、]")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A text that was dropped, and why."""

    text: int
    "Its number among the texts."
    question: int
    "Number of the first test question found in it."
    words: str
    "What both have."


@dataclass(slots=True)
class Cleaned:
    """What is left."""

    kept: list[int]
    "Numbers of the texts that stay, in order."
    dropped: list[Dropped]
    unchecked: list[int]
    "Numbers of the test questions that are too short to look for."

    def __str__(self) -> str:
        total = len(self.kept) + len(self.dropped)
        line = f"{len(self.dropped)} of {total} texts hold a test question and were dropped"
        return line + (f"; {len(self.unchecked)} test questions are too short to look for" if self.unchecked else "")


def words_of(text: str) -> list[str]:
    """What is compared.

    >>> words_of("Make 18 from 3, 5. 好的!")
    ['make', '18', 'from', '3', '5', '好', '的']
    """
    return _WORD.findall(text.lower())


def decontaminate(texts: Sequence[str], questions: Sequence[str], *, n: int = N, least: int = LEAST) -> Cleaned:
    """Which texts may be trained on, given the test questions (without their templates). Time is linear in both.

    n: words of a run that give a text away; least: words of the shortest question that is looked for.
    """
    if not 1 <= least <= n:
        raise ValueError(f"least={least} has to be from 1 to n={n}")
    wanted: dict[int, dict[tuple[str, ...], int]] = {}
    "length -> run -> the first question with it"
    unchecked = []
    for number, question in enumerate(questions):
        words = words_of(question)
        if len(words) < least:
            unchecked.append(number)
            continue
        size = min(n, len(words))
        for run in _runs(words, size):
            wanted.setdefault(size, {}).setdefault(run, number)
    result = Cleaned(kept=[], dropped=[], unchecked=unchecked)
    for number, text in enumerate(texts):
        found = _first(words_of(text), wanted)
        if found is None:
            result.kept.append(number)
        else:
            result.dropped.append(Dropped(number, found[1], " ".join(found[0])))
    return result


def _first(words: list[str], wanted: dict[int, dict[tuple[str, ...], int]]) -> tuple[tuple[str, ...], int] | None:
    for size, runs in wanted.items():
        for run in _runs(words, size):
            if run in runs:
                return run, runs[run]
    return None


def _runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
