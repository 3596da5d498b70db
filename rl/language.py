"""Which language a text is in, and how much of a model's thinking is in the language of its question (R1 §2.3.2).

Words are counted: a run of Latin letters is one English word, a Chinese character one Chinese word. Numbers, marks,
tags, TeX commands and single letters (the x and n of formulas) are of no language.
"""

import re

from rl.reflection import thinking_of
from rl.types import Question

LANGUAGES = ("en", "zh")
_NO_WORD = re.compile(r"</?(?:think|answer)>|\\[A-Za-z]+")
_ENGLISH = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏ]{2,}")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]")


def word_counts(text: str) -> dict[str, int]:
    """Words of each language.

    >>> word_counts("check 3+5=8, 那就 so \\\\frac{x}{2}")
    {'en': 2, 'zh': 2}
    """
    text = _NO_WORD.sub(" ", text)
    return {"en": sum(1 for _ in _ENGLISH.finditer(text)), "zh": sum(1 for _ in _CHINESE.finditer(text))}


def language_share(text: str, language: str) -> float | None:
    """Share of the words that are of `language` ("en" or "zh"); None for a text without words.

    >>> language_share("so 那就 yes", "en"), language_share("3+5=8", "en")
    (0.5, None)
    """
    if language not in LANGUAGES:
        raise ValueError(f"{language}: is no language; choose from {', '.join(LANGUAGES)}")
    counts = word_counts(text)
    total = sum(counts.values())
    return counts[language] / total if total else None


def thinking_language_share(text: str, language: str) -> float | None:
    """The same of what stands inside <think> of a response: R1's language consistency; None where no word does."""
    return language_share(thinking_of(text), language)


def language_of(text: str) -> str:
    """The language that most words are of; English where there are none, or as many."""
    counts = word_counts(text)
    return "zh" if counts["zh"] > counts["en"] else "en"


def target_language(question: Question) -> str:
    """The language to think in: what the task says (meta["language"]), else the prompt's."""
    return question.meta.get("language") or language_of(question.prompt)
