"""Text of a stream, however its tokens are cut."""

from hypothesis import given
from hypothesis import strategies as st

from infra.serve.text import StopStrings, TextStream, ThinkSplitter


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


def cut(text, sizes):
    """The text in parts of these sizes, over and over."""
    parts, at = [], 0
    while at < len(text):
        for size in sizes:
            parts.append(text[at : at + size])
            at += size
    return parts


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)
TAGGED = st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "ab ", " ", "\n", ">"]), max_size=12).map("".join)


@given(st.text(max_size=30), SIZES)
def test_text_of_parts_is_the_text_and_every_character_comes_whole(text: str, sizes: list[int]) -> None:
    data = text.encode(errors="ignore")
    stream, parts = TextStream(Bytes()), cut(list(data), sizes)
    told = [stream.feed(part, last=i == len(parts) - 1) for i, part in enumerate(parts)]
    assert "".join(told) == data.decode()


def test_half_a_character_at_the_end_is_said_to_be_none() -> None:
    stream = TextStream(Bytes())
    assert stream.feed([97, 0xC3]) == ""
    assert stream.feed([], last=True) == "a\ufffd"


@given(st.text("ab#", max_size=30), SIZES, st.lists(st.text("ab#", min_size=1, max_size=3), max_size=3))
def test_a_stop_string_is_found_wherever_it_is_cut(text: str, sizes: list[int], stops: list[str]) -> None:
    gate, told = StopStrings(stops), ""
    parts = cut(text, sizes)
    for i, part in enumerate(parts):
        told += gate.feed(part, last=i == len(parts) - 1)
    # The first end decides, as it does when one reads along; then the earliest beginning.
    ends = [text.find(stop) for stop in stops if stop in text]
    assert gate.hit == bool(ends)
    assert text.startswith(told)
    assert not any(stop in told for stop in stops)
    assert told == text if not ends else len(told) <= max(ends)


@given(TAGGED, SIZES, st.booleans())
def test_thinking_is_told_apart_alike_in_one_part_and_in_many(text: str, sizes: list[int], opened: bool) -> None:
    whole = ThinkSplitter(opened=opened).feed(text, last=True)
    splitter, parts = ThinkSplitter(opened=opened), cut(text, sizes) or [""]
    told = [splitter.feed(part, last=i == len(parts) - 1) for i, part in enumerate(parts)]
    assert ("".join(r for r, _ in told), "".join(c for _, c in told)) == whole


def test_thinking_by_hand() -> None:
    assert ThinkSplitter().feed("<think>a b</think>\n<answer>7</answer>", last=True) == ("a b", "<answer>7</answer>")
    assert ThinkSplitter(opened=True).feed("\na</think>\n\nb", last=True) == ("a", "b")
    assert ThinkSplitter().feed("no tags, 1 < 2", last=True) == ("", "no tags, 1 < 2")
    assert ThinkSplitter().feed("<think>cut off", last=True) == ("cut off", "")
    assert ThinkSplitter().feed("<think>a</think> the tag <think> is", last=True) == ("a", "the tag <think> is")
