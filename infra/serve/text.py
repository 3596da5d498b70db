"""Tokens into text as they come: whole characters, stop strings, thinking apart from the answer."""

from collections.abc import Sequence
from typing import Protocol

from modeling.thinking import CLOSE, OPEN


class Decodes(Protocol):
    """A tokenizer, as far as this file knows one."""

    def decode(self, ids: list[int]) -> str: ...


class TextStream:
    """Text of tokens given bit by bit; a character of several tokens comes with its last.

    Example: the tokens of "a", then half of an umlaut, then the other half give "a", "", "ä".
    """

    __slots__ = ("_ids", "_read", "_start", "_tokenizer")

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer, self._ids, self._start, self._read = tokenizer, [], 0, 0

    def feed(self, ids: Sequence[int], *, last: bool = False) -> str:
        """The text that these tokens add. last: what is half a character stays one."""
        self._ids += ids
        # What was given out before is decoded again: some tokenizers write a token by what stands before it.
        before = self._tokenizer.decode(self._ids[self._start : self._read]) if self._read > self._start else ""
        text = self._tokenizer.decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith("\ufffd") and not last):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]


class StopStrings:
    """Passes text on up to the first of some strings; what may become one is held back.

    Example, for "##": "a#" gives "a", then "b" gives "#b", then "c##d" gives "c" and is the end.
    """

    __slots__ = ("_held", "_strings", "hit")

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings, self._held, self.hit = tuple(strings), "", False

    def feed(self, text: str, *, last: bool = False) -> str:
        if not self._strings or self.hit:
            return "" if self.hit else text
        text = self._held + text
        found = [at for at in (text.find(string) for string in self._strings) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = 0 if last else max(_overlap(text, string) for string in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class ThinkSplitter:
    """Thinking (between <think> and </think>) apart from the answer; the tags and the white space behind them go.

    Example: "<think>a b</thi", "nk>\\nc" give ("a b", "") and ("", "c"). Text without tags is answer.
    """

    __slots__ = ("_before", "_held", "_thinking", "_trim")

    def __init__(self, *, opened: bool = False) -> None:
        """opened: whether the prompt has opened the thinking."""
        self._thinking, self._held, self._trim, self._before = opened, "", opened, True

    def feed(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """-> (thinking, answer) that this text adds."""
        thinking, answer = [], []
        text = self._held + text
        self._held = ""
        while text:
            tag = CLOSE if self._thinking else OPEN
            # An answer may speak of tags; the thinking is at its beginning.
            at = text.find(tag) if self._thinking or self._before else -1
            keep = 0 if at >= 0 or last or not (self._thinking or self._before) else _overlap(text, tag)
            part, rest = (text[:at], text[at + len(tag) :]) if at >= 0 else (text[: len(text) - keep], "")
            self._held = text[len(text) - keep :] if keep else ""
            if self._trim:
                part = part.lstrip()
                self._trim = not part
            (thinking if self._thinking else answer).append(part)
            if at >= 0:
                self._before = False
                self._thinking, self._trim = not self._thinking, True
            text = rest
        return "".join(thinking), "".join(answer)


def _overlap(text: str, string: str) -> int:
    """How much of the beginning of string text ends with, all of it left out."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
