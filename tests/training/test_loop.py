"""Told to stop: all ranks leave together, with the status that a launcher asked for; no step is lost or done twice."""

import os
import signal
from pathlib import Path

import pytest

from infra import early_signal
from infra.launch_config import STOP_STATUS, STOPPED
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


def _run(folder: str, told_at: int | None, asked: bool) -> tuple[int | None, int, str]:
    """-> (exit status, steps done, what the tracker was told). Rank 1 alone is told, before the loop for told_at=0."""
    if asked:
        os.environ[STOP_STATUS] = str(STOPPED)
    early_signal.remember()
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


@pytest.mark.parametrize(("asked", "code"), [(True, STOPPED), (False, 0)])
def test_all_ranks_leave_after_the_step_at_hand_and_go_on_from_it(asked: bool, code: int, tmp_path: Path) -> None:
    for name in ("whole", "told"):
        (tmp_path / name).mkdir()
    assert gloo.run(_run, str(tmp_path / "whole"), None, asked) == [(None, 6, "")] * 2
    assert gloo.run(_run, str(tmp_path / "told"), 3, asked) == [(code, 3, "KILLED")] * 2
    assert gloo.run(_run, str(tmp_path / "told"), None, asked) == [(None, 6, "")] * 2
    assert _losses(tmp_path / "told") == _losses(tmp_path / "whole")
    assert (tmp_path / "told" / "metrics_0.jsonl").read_text().count("train/loss") == 6


def test_a_signal_before_training_is_not_missed(tmp_path: Path) -> None:
    assert gloo.run(_run, str(tmp_path), 0, True) == [(STOPPED, 0, "KILLED")] * 2
    assert gloo.run(_run, str(tmp_path), None, True) == [(None, 6, "")] * 2
