"""Counts self-checks in what a model wrote (R1 §2.2.4, the aha moment). Only counted: no reward reads this.

The rule, fixed: an answer reflects when its thinking (from <think> to </think>, or to the end where it was cut off)
holds one of these words, whole and in any case: check(s/ed/ing), recheck, double-check, verify, verifies, verified,
verifying, wait, reconsider, re-examine, reevaluate, re-evaluate; or one of 检查, 验算, 验证, 等等, 重新, 再想.
The question and the answer do not count.
"""

import re
from collections.abc import Iterable

_WORDS = re.compile(
    r"\b(?:(?:re)?check(?:s|ed|ing)?|verif(?:y|ies|ied|ying)|wait|reconsider|re-?(?:examine|evaluate))\b"
    r"|检查|验算|验证|等等|重新|再想",
    re.IGNORECASE | re.ASCII,  # ASCII: a word ends where Chinese begins, for who mixes languages
)


def thinking_of(text: str) -> str:
    """The part inside <think>; to the end of the text where it is not closed, empty where it is not opened."""
    return text.partition("<think>")[2].partition("</think>")[0]


def self_checks(text: str) -> list[str]:
    """The words that count, in order."""
    return _WORDS.findall(thinking_of(text))


def self_check_spans(thinking: str) -> list[tuple[int, int]]:
    """Where they stand in the thinking alone, (start, end) each."""
    return [match.span() for match in _WORDS.finditer(thinking)]


def reflects(text: str) -> bool:
    """Whether a response checks itself."""
    return _WORDS.search(thinking_of(text)) is not None


def reflection_rate(texts: Iterable[str]) -> float:
    """Share of responses that check themselves; 0 of none."""
    found = [reflects(text) for text in texts]
    return sum(found) / max(len(found), 1)
