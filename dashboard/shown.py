"""Text that a model or a stranger wrote, made harmless: escaped first, our own tags added after.

Only st.html of these functions, st.text, st.code and table cells may show such text. Markdown (st.markdown, st.write,
st.warning, every label) may not: an image link in it calls out. `plain` makes short names safe for those.
"""

import html
import re
from collections.abc import Iterable
from urllib.parse import urlencode

import streamlit as st

SHOWN_CHARACTERS = 20_000
"An answer beyond this is cut on the page; search still reads all of it."

STYLE = """<style>
.r1-group {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .75rem}
.r1-card {border: 1px solid rgba(128, 128, 128, .35); border-left-width: 4px; border-radius: .4rem;
  padding: .6rem .7rem; min-width: 0; font-size: .82rem}
.r1-right {border-left-color: #009E73} .r1-wrong {border-left-color: #D55E00} .r1-cut {border-left-color: #E69F00}
.r1-other {opacity: .55}
.r1-head {display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin-bottom: .4rem; font-variant-numeric: tabular-nums}
.r1-head b {font-weight: 600}
.r1-text {white-space: pre-wrap; overflow-wrap: anywhere; direction: ltr; unicode-bidi: isolate; overflow: auto;
  max-height: 22rem; margin: 0; padding: 0; background: none; font-size: .82rem; line-height: 1.5; contain: paint}
.r1-text mark {background: rgba(230, 159, 0, .38); color: inherit; border-radius: .15rem}
.r1-text mark.r1-found {background: rgba(86, 180, 233, .45)}
.r1-text mark.r1-before {background: rgba(213, 94, 0, .32); text-decoration: line-through}
.r1-text del {background: rgba(213, 94, 0, .25)} .r1-text ins {background: rgba(0, 158, 115, .25)}
.r1-flat {outline: 2px solid #C62828; outline-offset: .25rem; border-radius: .4rem}
.r1-flat-note {color: #C62828; font-weight: 600; font-size: .85rem; margin: 0 0 .6rem}
.r1-head a {color: inherit; text-underline-offset: .15em}
.r1-tokens span {border-radius: .15rem}
.r1-v1 {background: rgba(0, 114, 178, .12)} .r1-v2 {background: rgba(0, 114, 178, .24)}
.r1-v3 {background: rgba(0, 114, 178, .38)} .r1-v4 {background: rgba(0, 114, 178, .54)}
.r1-v5 {background: rgba(0, 114, 178, .72)} .r1-v6 {background: rgba(0, 114, 178, .95); color: #fff}
.r1-unknown {border-bottom: 1px dotted currentColor}
.r1-code {opacity: .6; font-size: .75em; border: 1px solid currentColor; border-radius: .15rem; padding: 0 .1rem}
.r1-note {opacity: .7; font-size: .78rem}
</style>"""


def plain(text: object) -> str:
    """A name for a markdown place: every punctuation mark escaped, control characters as codes, 200 characters at most.

    plain("![x](http://a)") == "\\\\!\\\\[x\\\\]\\\\(http\\\\:\\\\/\\\\/a\\\\)"
    """
    coded = "".join(c if c.isprintable() else code_of(c) for c in str(text)[:200])
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", coded)


def code_of(character: str) -> str:
    """What cannot be seen, named: ESC is \\x1b, a right-to-left override is \\u202e."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def escaped(text: str) -> str:
    """Text for HTML. Only line ends and tabs keep their effect; other characters that do not print become codes."""
    return "".join(
        html.escape(piece) if piece.isprintable() or piece in "\n\t" else _code(piece)
        for piece in re.split(r"([^\x20-\x7e])", text)  # plain ASCII stays in long pieces
    )


def _code(character: str) -> str:
    return f'<span class="r1-code">{code_of(character)}</span>'


def marked(
    text: str,
    checks: Iterable[str] = (),
    found: str = "",
    *,
    start: int = 0,
    end: int | None = None,
    places: Iterable[tuple[int, int, str]] = (),
) -> str:
    """Text for HTML with the words `checks` marked between start and end, and every `found` marked in another colour.

    places: more to mark, (start, end, class). Matches are looked up in the raw text and each piece is escaped on its
    own, so that no match can cut an escape; where two overlap, the one that starts first stays, or is longer.
    """
    cut = text[:SHOWN_CHARACTERS]
    spans = [(first, min(last, len(cut)), kind) for first, last, kind in places if first < len(cut)]
    if found:
        spans += [(m.start(), m.end(), "r1-found") for m in re.finditer(re.escape(found), cut, re.IGNORECASE)]
    if words := sorted(set(checks), key=len, reverse=True):
        either = "|".join(rf"\b{re.escape(w)}\b" if w.isascii() else re.escape(w) for w in words)
        stop = len(cut) if end is None else min(end, len(cut))
        spans += [(m.start(), m.end(), "r1-check") for m in re.compile(either).finditer(cut, start, stop)]

    parts, position = [], 0
    for first, last, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        if first >= position:
            parts += [escaped(cut[position:first]), f'<mark class="{kind}">', escaped(cut[first:last]), "</mark>"]
            position = last
    parts.append(escaped(cut[position:]))
    if len(text) > len(cut):
        parts.append(f'<span class="r1-note">\n[cut here: {len(text) - len(cut):,} more characters]</span>')
    return "".join(parts)


def text_block(marked_text: str) -> str:
    """A block of text that `marked` or `escaped` made, with line ends kept."""
    return f'<pre class="r1-text">{marked_text}</pre>'


def card(head: Iterable[str], body: str, kind: str, *, dimmed: bool = False, link: str = "") -> str:
    """One answer: facts above (escaped here), text below (from `text_block`); kind: a result, for the colour.

    link: the address of just this answer, made by `address`.
    """
    facts = "".join(f"<span>{html.escape(fact)}</span>" for fact in head)
    facts += f'<a href="{html.escape(link)}" target="_self">link</a>' if link else ""
    other = " r1-other" if dimmed else ""
    return f'<div class="r1-card r1-{html.escape(kind)}{other}"><div class="r1-head">{facts}</div>{body}</div>'


def address(**values: object) -> str:
    """This page with these query parameters; None and empty ones are left out.

    >>> address(run="a/b", step=3, answer=None)
    '?run=a%2Fb&step=3'
    """
    return "?" + urlencode({name: value for name, value in values.items() if value not in (None, "")}, safe="")


def show_cards(cards: Iterable[str], flat: str = "") -> None:
    """Cards side by side, as many in a row as fit; flat: why the group teaches nothing, said above a red frame."""
    note = f'<p class="r1-flat-note">{html.escape(flat)}</p>' if flat else ""
    kind = "r1-group r1-flat" if flat else "r1-group"
    st.html(f'{STYLE}{note}<div class="{kind}">{"".join(cards)}</div>')


def show_text(text: str, found: str = "") -> None:
    """One text, escaped."""
    show_block(marked(text, found=found))


def show_block(marked_text: str) -> None:
    """A text that `marked`, dashboard/token_strip.py or dashboard/step_diff.py made."""
    st.html(STYLE + text_block(marked_text))


def notice(problems: Iterable[object]) -> None:
    """What could not be read, one warning each; names in it are made harmless."""
    for problem in problems:
        st.warning(plain(problem), icon=":material/warning:")
