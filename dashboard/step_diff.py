"""What changed from one answer to another, word by word. Pure: texts in, escaped HTML out."""

import difflib
import re

from dashboard.shown import escaped

READ = 6_000
"Characters of each text that are compared; time grows with the square."


def difference(old: str, new: str) -> str:
    """The new text with what it lost struck out and what it gained underlined, for a text block."""
    before, after = _words(old[:READ]), _words(new[:READ])
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(escaped("".join(after[k:m])))
            continue
        if j > i:
            parts.append(f"<del>{escaped(''.join(before[i:j]))}</del>")
        if m > k:
            parts.append(f"<ins>{escaped(''.join(after[k:m]))}</ins>")
    longer = max(len(old), len(new)) - READ
    if longer > 0:
        parts.append(f'<span class="r1-note">\n[compared so far: {longer:,} more characters]</span>')
    return "".join(parts)


def similarity(old: str, new: str) -> float:
    """Share of words that stayed, 0 to 1."""
    return difflib.SequenceMatcher(None, _words(old[:READ]), _words(new[:READ]), autojunk=False).ratio()


def _words(text: str) -> list[str]:
    """Words, blanks and marks; joined they are the text. Runs are cut, so that a line of 1 MB is no one word."""
    return re.findall(r"\w{1,30}|\s{1,30}|[^\w\s]", text)
