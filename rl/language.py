"""Which language words are in: English against Chinese; numbers, code, formulas and tags are in none (R1 §2.3.2)."""

import re
from enum import Enum


class Language(Enum):
    """A language that answers are asked in."""

    english = "english"
    chinese = "chinese"


_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
# A Chinese character is a word: nothing here cuts Chinese into words, and a share should not need a dictionary.
_WORD = re.compile(rf"[{_HAN}]|[^\W\d_{_HAN}]+(?:['\u2019][^\W\d_{_HAN}]+)*")
_CHINESE = re.compile(f"[{_HAN}]")
# Latin without marks and with those of borrowed words (naïve). Which of the Latin languages it is, is not asked.
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_NEUTRAL = re.compile(r"</?(?:think|answer)>|`[^`\n]*`|\\[A-Za-z]+")


def language_share(text: str, target: Language) -> float:
    """Share of the words in `text` that are in the target language, 0 to 1; 1 where there are no words.

    A word is a Chinese character, or a run of letters of any other script. Digits, marks, single letters (variables),
    code between ``` or `, TeX commands and R1's tags are no words. Linear in the text.

    language_share("so 3+5=8, 太小", Language.english) is 1/3; language_share("3+5=8", Language.chinese) is 1.
    """
    words = [word for word in _WORD.findall(_prose(text)) if _CHINESE.match(word) or sum(map(str.isalpha, word)) > 1]
    if not words:
        return 1.0
    is_target = _CHINESE.match if target is Language.chinese else _LATIN.match
    return sum(is_target(word) is not None for word in words) / len(words)


def language_of(text: str) -> Language:
    """Chinese where at least half the words are; a text without words is English."""
    has_words = language_share(text, Language.english) < 1
    return Language.chinese if has_words and language_share(text, Language.chinese) >= 0.5 else Language.english


def _prose(text: str) -> str:
    """The text without code, TeX commands and tags; a fence that is never closed hides nothing."""
    parts = text.split("```")
    open_end = [parts.pop()] if len(parts) % 2 == 0 else []
    return _NEUTRAL.sub(" ", " ".join([*parts[::2], *open_end]))
