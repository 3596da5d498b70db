"""Told to stop: all ranks leave together, with word for the launcher; no step is lost or done twice."""

import os
import signal
from pathlib import Path

import pytest

from infra import stopping
from tests import gloo
from tests.training.test_checkpoint import Log, _fresh, _losses, _step
from training import parallel
from training.config import LoopConfig
from training.loop import run_loop


class Ended(Log):
    """A tracker that remembers how the run ended."""

    status = ""

    def finish(self, status: str = "FINISHED") -> None:
        self.status = status


def _run(folder: str, told_at: int | None, word: str = "") -> tuple[int | None, int, str]:
    """-> (exit status, steps done, what the tracker was told). Rank 1 alone is told, before the loop for told_at=0."""
    if word:
        os.environ[stopping.STOP_FILE] = word
    stopping.remember()
    state = _fresh(0)

    def tell(at: int) -> None:
        if at == told_at and parallel.rank() == parallel.world() - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    def step(state) -> dict[str, float]:
        tell(state.step + 1)
        return _step(state)

    tracker = Ended(Path(folder) / f"metrics_{os.environ['RANK']}.jsonl")
    tell(0)
    cfg, code = LoopConfig(save_every=100, evaluate_every=100), None
    try:
        run_loop(state, cfg, name="test", step_fn=step, run_dir=Path(folder), config={}, tracker=tracker, total_steps=6)
    except SystemExit as left:
        code = left.code
    return code, state.step, tracker.status


@pytest.mark.parametrize("launched", [True, False])
def test_all_ranks_leave_after_the_step_at_hand_and_go_on_from_it(launched: bool, tmp_path: Path) -> None:
    whole, told, word = tmp_path / "whole", tmp_path / "told", tmp_path / "word"
    whole.mkdir()
    told.mkdir()
    asked = str(word) if launched else ""
    assert gloo.run(_run, str(whole), None, asked) == [(None, 6, "")] * 2
    assert not word.exists()
    assert gloo.run(_run, str(told), 3, asked) == [(0, 3, "KILLED")] * 2
    assert word.exists() == launched
    assert gloo.run(_run, str(told), None) == [(None, 6, "")] * 2
    assert _losses(told) == _losses(whole)
    assert (told / "metrics_0.jsonl").read_text().count("train/loss") == 6


def test_a_signal_before_training_is_not_missed(tmp_path: Path) -> None:
    assert gloo.run(_run, str(tmp_path), 0, str(tmp_path / "word")) == [(0, 0, "KILLED")] * 2
    assert (tmp_path / "word").exists()
    assert gloo.run(_run, str(tmp_path), None) == [(None, 6, "")] * 2
