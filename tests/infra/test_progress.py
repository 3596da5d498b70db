"""The progress line on a terminal, in a log, and on other ranks."""

import io
import sys

import pytest

from infra import progress
from infra.progress import Progress, compact


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_one_line_with_rate_time_left_and_values(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("pretrain", 40, "step") as line:
        for _ in range(40):
            line.advance(1, loss=2.34567)
    shown = sys.stderr.getvalue()
    assert shown.count("\n") == 1
    last = shown.split("\r")[-1]
    assert "pretrain: 100%" in last and "40/40" in last and "step/s" in last and "loss 2.35" in last


def test_a_message_stands_on_a_line_of_its_own_beside_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("pretrain", 4, "step") as line:
        line.advance(1)
        progress.say("warning: something")
    assert "warning: something" in [part.strip() for part in sys.stderr.getvalue().replace("\r", "\n").splitlines()]


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("zero", 50, "step") as line:
        for _ in range(25):
            now[0] += 1
            line.advance(2, accuracy=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "zero: 20/50 step (40 %), 2 step/s, 00:15 left, accuracy 0.5",
        "zero: 40/50 step (80 %), 2 step/s, 00:05 left, accuracy 0.5",
        "zero: 50/50 step (100 %), 2 step/s, 00:25 passed, accuracy 0.5",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_and_finished_phases_are_silent(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with Progress("done before", 0, "step"):
        pass
    monkeypatch.setenv("RANK", "1")
    with Progress("zero", 5, "step") as line:
        line.advance(5)
    assert sys.stderr.getvalue() == ""


def test_a_last_step_that_goes_over_the_total_ends_at_it(capsys):
    with Progress("pretrain", 1000, "tok") as line:
        line.advance(900)
        line.advance(300)
    assert capsys.readouterr().err.startswith("pretrain: 1000/1000 tok (100 %)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, "0.123"), (12.0, "12"), (999.4, "999"), (999.7, "1k"), (1234.0, "1.23k"), (-2.5e6, "-2.5M"), (0, "0")],
)
def test_values_have_three_significant_digits(value, shown):
    assert compact(value) == shown
