"""Streaming an answer to the terminal."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import chat
from infra.errors import ConfigError


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Steps(io.StringIO):
    """Remembers what was there at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def flush(self) -> None:
        self.seen.append(self.getvalue())


def said(text: str, *, stop: set[int] | None = None, limit: int = 100) -> Steps:
    out = Steps()
    chat.answer(iter(text.encode()), Bytes(), stop or set(), limit, out)
    return out


def test_text_appears_as_it_comes_and_whole_characters_only() -> None:
    assert said("a对b").seen == ["a", "a对", "a对b", "a对b\n"]


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert said("\x1b[2J\a\r\nx").getvalue() == "\\x1b[2J\\x07\\x0d\nx\n"


def test_an_answer_ends_at_its_stop_token() -> None:
    assert said("one.two", stop={ord(".")}).getvalue() == "one.\n"


def test_a_cut_off_answer_says_so() -> None:
    assert said("abc", limit=3).getvalue() == "abc [cut off: sampling.max_response_tokens=3]\n"


def test_ctrl_c_ends_the_answer_alone() -> None:
    def interrupted() -> Iterator[int]:
        yield ord("a")
        raise KeyboardInterrupt

    out = Steps()
    chat.answer(interrupted(), Bytes(), set(), 9, out)
    assert out.getvalue() == "a [stopped]\n"


def test_the_newest_model_is_asked_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chat, "RELEASED_BASE", tmp_path / "base")
    with pytest.raises(ConfigError, match="make reproduce"):
        chat.model_folder("")
    for age, name in enumerate(("base", "runs/new/zero/model", "runs/old/model")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        os.utime(tmp_path / name / "config.json", (1000 - age, 1000 - age))
    assert chat.model_folder("") == Path("runs/new/zero/model")
    assert chat.model_folder(str(tmp_path)) == tmp_path


def test_questions_are_lines_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Make 9 from 1, 2, 3.\n\n  Make 8 from 1, 2, 4. \n"))
    assert list(chat._questions(Path("model"))) == ["Make 9 from 1, 2, 3.", "Make 8 from 1, 2, 4."]
