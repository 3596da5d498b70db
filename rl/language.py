"""Which language a text is in, and how much of a model's thinking is in the language of its question (R1 §2.3.2).

Words are counted: a run of Latin letters is one English word, a Chinese character one Chinese word (a share should not
hang on a dictionary), a run of any other letters a word of neither. Numbers, marks, R1's tags, TeX commands, code and
single letters (the x and n of formulas) are no words. Time is linear in the text.
"""

import re

from rl.reflection import thinking_of
from rl.types import Question

LANGUAGES = ("en", "zh")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_CHINESE = re.compile(f"[{_HAN}]")
_OTHERS = re.compile(rf"[^\W\d_{_HAN}]{{2,}}(?:['\u2019][^\W\d_{_HAN}]+)*")
_LATIN = re.compile("[A-Za-zÀ-ɏ'\u2019]+")
_NO_WORD = re.compile(r"</?(?:think|answer)>|`[^`\n]*`|\\[A-Za-z]+")


def word_counts(text: str) -> dict[str, int]:
    """Words of each language.

    >>> word_counts("check 3+5=8, 那就 so \\\\frac{x}{2} да")
    {'en': 2, 'zh': 2, 'other': 1}
    """
    text = _prose(text)
    others = _OTHERS.findall(text)
    latin = sum(_LATIN.fullmatch(word) is not None for word in others)
    return {"en": latin, "zh": sum(1 for _ in _CHINESE.finditer(text)), "other": len(others) - latin}


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


def _prose(text: str) -> str:
    """The text without code, TeX commands and tags; a fence that is never closed hides nothing."""
    parts = text.split("```")
    open_end = [parts.pop()] if len(parts) % 2 == 0 else []
    return _NO_WORD.sub(" ", " ".join([*parts[::2], *open_end]))
