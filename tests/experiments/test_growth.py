"""The exponent of a growth, and what a growth benchmark says of made-up steps."""

import time

import pytest

from experiments.bench import growth


def test_exponent_of_exact_powers() -> None:
    assert growth.exponent((1, 2, 4), [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert growth.exponent((8, 32, 128), [1.0, 2.0, 4.0]) == pytest.approx(0.5)


def test_growth_of_steps_that_sleep_and_a_chart(tmp_path, monkeypatch) -> None:
    """A clock that each step moves: 1 + size seconds, so that 16 times the size takes 17 / 2 times as long."""
    now = [0.0]
    monkeypatch.setattr(growth, "CHARTS", tmp_path)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step(size: int) -> growth.Step:
        def go() -> None:
            now[0] += 1 + size

        return go

    result = growth._grow("growth_x", "things", (1, 4, 16), [step(size) for size in (1, 4, 16)])
    assert (result.ours, result.peer, result.ratio) == (8.5, 16, 8.5 / 16)
    assert 0.5 < result.details["exponent"] < result.details["exponent_upper_half"] < 1
    assert (tmp_path / "growth_x.png").read_bytes().startswith(b"\x89PNG")
