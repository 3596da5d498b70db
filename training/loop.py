"""The loop that every stage shares: resume, then evaluate, save, stop, step, log, until done.

It runs once more at the end instead of repeating code after it. SIGTERM and SIGUSR1 (SLURM's warning) and Ctrl-C end
it after the step at hand: checkpoint, a message, exit status 0; the same command goes on from there.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from infra import stopping
from infra.progress import Progress, say
from training import checkpoint, expert_load, parallel
from training.config import LoopConfig
from training.state import TrainState

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class MetricLog(Protocol):
    """What the loop needs of a tracker."""

    def log(self, metrics: dict[str, float], *, step: int, tokens: int) -> None: ...

    def finish(self, status: str = "FINISHED") -> None: ...


def run_loop(
    state: TrainState,
    cfg: LoopConfig,
    *,
    name: str,
    step_fn: Callable[[TrainState], dict[str, float]],
    run_dir: Path,
    config: dict[str, Any],
    tracker: MetricLog,
    total_steps: int | None = None,
    total_tokens: int | None = None,
    evaluate_fn: Callable[[TrainState], dict[str, float]] | None = None,
    shown: tuple[str, ...] = ("train/loss",),
) -> None:
    """Train until total_steps steps or total_tokens tokens (give one); every rank calls it.

    step_fn does one step, counted in state.step afterwards; it and evaluate_fn return metrics. name is the progress
    line's, shown the metrics on it. config goes into every checkpoint. Leaves by SystemExit(0) when told to stop,
    with the tracker finished as KILLED.
    """
    if (total_steps is None) == (total_tokens is None):
        raise ValueError("give total_steps or total_tokens")
    resumed = checkpoint.load_latest(state, run_dir)
    loaded_step = state.step if resumed else None
    if resumed:
        _say(f"{name}: going on from step {state.step} ({resumed})")

    def position() -> int:
        return state.step if total_steps is not None else state.tokens_seen

    total = total_steps if total_steps is not None else total_tokens
    unit = "step" if total_steps is not None else "tok"
    with _StopSignals() as signals, Progress(name, total - position(), unit) as progress:
        while True:
            finished, new = position() >= total, state.step != loaded_step
            if evaluate_fn is not None and new and (finished or state.step % cfg.evaluate_every == 0):
                tracker.log(_timed("evaluate", evaluate_fn, state), step=state.step, tokens=state.tokens_seen)

            stopping = parallel.any_rank(signals.received is not None)
            due = finished or stopping or state.step % cfg.save_every == 0
            if new and state.step > 0 and due:
                start = time.perf_counter()
                checkpoint.save(state, run_dir, config, cfg.keep_last)
                seconds = time.perf_counter() - start
                tracker.log({"time/save_s": seconds}, step=state.step, tokens=state.tokens_seen)

            if finished:
                return
            if stopping:
                _leave(state, name, tracker, signals.received)

            before, tokens = position(), state.tokens_seen
            metrics = _timed("step", step_fn, state)
            state.step += 1
            metrics["train/tokens_per_s"] = (state.tokens_seen - tokens) / metrics["time/step_s"]
            tracker.log(metrics, step=state.step, tokens=state.tokens_seen)
            expert_load.write(state, run_dir)
            progress.advance(position() - before, **{key.split("/")[-1]: metrics[key] for key in shown})


def _timed(what: str, function: Callable[[TrainState], dict[str, float]], state: TrainState) -> dict[str, float]:
    """The function's metrics, with its own time beside them."""
    start = time.perf_counter()
    metrics = function(state)
    return metrics | {f"time/{what}_s": time.perf_counter() - start}


def _leave(state: TrainState, name: str, tracker: MetricLog, received: signal.Signals | None) -> None:
    tracker.finish("KILLED")
    why = received.name if received else "another rank"
    where = f"saved as {state.last_checkpoint}" if state.last_checkpoint else "nothing to save yet"
    _say(f"{name}: stopped by {why} at step {state.step}, {where}; the same command goes on from there")
    if parallel.is_main():
        stopping.leave_word()
    raise SystemExit(0)


def _say(message: str) -> None:
    if parallel.is_main():
        say(message)


class _StopSignals:
    """Remembers the first signal that asks to stop; a second one ends the process the hard way."""

    def __init__(self) -> None:
        self.received = stopping.received()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_StopSignals":
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
