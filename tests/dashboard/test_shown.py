"""Whatever a model writes comes out as text: the page's tags are the only ones."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.shown import SHOWN_CHARACTERS, card, escaped, marked, plain, text_block
from tests.dashboard.made import BEACON, HOSTILE

NASTY = st.lists(
    st.sampled_from([*"<>&\"'`!()[]\\/ \n\t\x00\x1b\u202e\u200b\ud800", "wait", "<b>", "&lt;", "</pre>", "<!--", "a"]),
    max_size=40,
).map("".join)


class Reader(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


@given(text=NASTY, found=NASTY)
def test_only_our_tags_and_all_of_the_text(text: str, found: str) -> None:
    read = Reader(text_block(marked(text, ["wait"], found)))
    assert {tag for tag, _ in read.tags} <= {"pre", "mark", "span"}
    assert all(set(attrs) == {"class"} for _, attrs in read.tags)
    assert read.text == Reader(escaped(text)).text
    visible = [c for c in text if c.isprintable() or c in "\n\t"]
    assert [c for c in read.text if c in visible][:3] == visible[:3] or "\\" in read.text
    assert all(c.isprintable() or c in "\n\t" for c in read.text)


def test_characters_that_do_not_print_are_named() -> None:
    assert Reader(escaped("a\x1b[0m\u202eb\u200b\n")).text == "a\\x1b[0m\\u202eb\\u200b\n"


def test_hostile_answer_has_no_tag_of_its_own() -> None:
    read = Reader(card(["#0", "<img src=x>"], text_block(marked(HOSTILE, ["wait", "等等"])), "wrong"))
    assert {tag for tag, _ in read.tags} <= {"div", "pre", "mark", "span"}
    assert BEACON in read.text and "<script>" in read.text and "<img src=x>" in read.text


def test_marks_cover_self_checks_inside_the_thinking_and_what_was_looked_for() -> None:
    text = "wait <think>Wait, wait</think> wait & wait"
    start, end = text.index("<think>"), text.index("</think>")
    html = marked(text, ["Wait", "wait"], "&", start=start, end=end)
    assert html.count('<mark class="r1-check">') == 2
    assert '<mark class="r1-found">&amp;</mark>' in html
    assert marked("awaits", ["wait"]) == "awaits"


def test_long_text_is_cut_and_says_so() -> None:
    html = marked("x" * (SHOWN_CHARACTERS + 1234))
    assert "[cut here: 1,234 more characters]" in html
    assert len(html) < SHOWN_CHARACTERS + 200


@pytest.mark.parametrize("name", [f"![x]({BEACON})", "[a](b)", ":red[x]", "$x$", "*a* _b_", "<b>", "`c`", "a\nb"])
def test_a_name_in_a_label_has_no_markdown_left(name: str) -> None:
    safe = plain(name)
    for mark in "![]()*_`<>:$":
        assert safe.count(mark) == safe.count("\\" + mark)
    assert "\n" not in safe
