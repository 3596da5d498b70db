"""Which answers a page shows. Pure but for pyarrow, whose RE2 runs regular expressions in time linear in the text.

Python's own engine would hang on a hostile pattern, `(a+)+$`, or on a harmless one over a hostile answer.
"""

import re
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rl.language import language_of, thinking_language_share

RESULTS = ("all", "right", "wrong", "cut")
PATTERN_CHARACTERS = 200
"Of a regular expression; longer ones are refused, as RE2's own tables grow with it."


class BadPattern(Exception):
    """A regular expression that cannot be run; the message is one line for the page."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What an answer has to be."""

    result: str = "all"
    "One of RESULTS."
    self_check: bool = False
    mixed: bool = False
    "Thinking with words in another language than the question's."
    contains: str = ""
    "Text, in any case, or a regular expression."
    regex: bool = False

    def fits(self, answers: pd.DataFrame) -> pd.Series:
        """Which rows of a step's answers fit. Raises BadPattern."""
        fits = pd.Series(True, index=answers.index)
        if self.result != "all":
            fits &= answers.apply(result, axis=1) == self.result
        if self.self_check:
            fits &= answers["reflects"].map(lambda value: value is True)
        if self.contains:
            fits &= self._contains(answers["text"])
        if self.mixed:
            fits &= pd.Series([fit and is_mixed(row) for fit, (_, row) in zip(fits, answers.iterrows(), strict=True)])
        return fits

    def _contains(self, texts: pd.Series) -> pd.Series:
        column = pa.array(texts.fillna(""), pa.large_string())
        if self.regex:
            return pd.Series(matching(column, self.contains), index=texts.index)
        found = pc.match_substring(column, self.contains, ignore_case=True)
        return pd.Series(found.to_pylist(), index=texts.index)


def result(answer) -> str:
    """right, wrong, cut (not right, and the length limit ended it), or "-" where nobody judged it."""
    if answer.get("reward_accuracy") == 1.0:
        return "right"
    if answer["stopped"] is False:
        return "cut"
    return "-" if pd.isna(answer.get("reward_accuracy")) else "wrong"


def is_mixed(answer) -> bool:
    """Whether some of the thinking's words are not in the question's language."""
    share = thinking_language_share(answer["text"] or "", language_of(answer["prompt"] or ""))
    return share is not None and share < 1.0


def matching(column: pa.Array, pattern: str) -> list[bool]:
    """Which texts a regular expression (RE2's syntax, any case) is found in. Raises BadPattern."""
    if len(pattern) > PATTERN_CHARACTERS:
        raise BadPattern(f"The regular expression has {len(pattern)} characters; {PATTERN_CHARACTERS} are the most.")
    try:
        return pc.match_substring_regex(column, pattern, ignore_case=True).to_pylist()
    except pa.ArrowInvalid as error:
        why = str(error).partition(": ")[2] or str(error)
        raise BadPattern(f"No regular expression (RE2's syntax): {why}") from None


def spans(text: str, found: str, regex: bool) -> list[tuple[int, int]]:
    """Where in the text what was looked for stands, (start, end) each; matches of nothing are left out.

    >>> spans("aXbx", "x", False), spans("a12b3", "[0-9]+", True)
    ([(1, 2), (3, 4)], [(1, 3), (4, 5)])
    """
    if not found or not text:
        return []
    if not regex:  # Python's engine is safe with a text
        return [match.span() for match in re.finditer(re.escape(found), text, re.IGNORECASE)]
    start, end = _unused(text)
    try:
        replaced = pc.replace_substring_regex(
            pa.array([text], pa.large_string()), pattern=f"(?i:{found})", replacement=f"{start}\\0{end}"
        )[0].as_py()
    except pa.ArrowInvalid:
        return []
    return _places(replaced, start, end)


def _places(replaced: str, start: str, end: str) -> list[tuple[int, int]]:
    """Spans in the text without its two marks."""
    places, position, opened = [], 0, 0
    for character in replaced:
        if character == start:
            opened = position
        elif character == end:
            if position > opened:
                places.append((opened, position))
        else:
            position += 1
    return places


def _unused(text: str) -> tuple[str, str]:
    """Two characters of private use that the text does not have."""
    private = (chr(code) for code in range(0xF0000, 0xF0000 + len(text) + 2))
    free = (character for character in private if character not in text)
    return next(free), next(free)
