"""Asynchronous rollouts, one step off: while step t trains, the answers of step t + 1 are written beside it, with the
weights that step t began with.

Kimi k1.5 (§2.6) and others hide the sampler's long tail this way; the price is answers one step old, which
rl.importance_cap corrects for. What is under way is part of a checkpoint, so that a resumed run trains on the same.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rl.rollout.sharing import Share, SharingEngine
from rl.types import Completion, Question


@dataclass(slots=True)
class _Ordered:
    """Answers that are being written, or were."""

    questions: list[Question]
    group_size: int
    share: Future[Share] | None
    "This rank's; None once the answers are gathered."
    answers: list[list[Completion]] | None = None
    metrics: dict[str, float] | None = None


class OneStepOff:
    """Orders answers a step ahead. The engine needs weights of its own; its load_weights must not be called while it
    writes (wait first)."""

    def __init__(self, engine: SharingEngine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._ordered: _Ordered | None = None

    def order(self, questions: list[Question], group_size: int, *, step: int) -> None:
        """Begin to write the answers of `step`, in a thread that talks to no other rank."""
        share = self._thread.submit(self.engine.write, questions, group_size, step=step)
        self._ordered = _Ordered(questions, group_size, share)

    def wait(self) -> None:
        """Until nothing is being written. Raises what the writing raised."""
        if self._ordered is not None and self._ordered.share is not None:
            self._ordered.share.result()

    def take(self) -> tuple[list[Question], list[list[Completion]], dict[str, float]] | None:
        """What was ordered: questions, answers, the engine's metrics. None where nothing was. Every rank calls it."""
        ordered = self._gathered()
        self._ordered = None
        return None if ordered is None else (ordered.questions, ordered.answers, ordered.metrics)

    def _gathered(self) -> _Ordered | None:
        ordered = self._ordered
        if ordered is not None and ordered.share is not None:
            share = ordered.share.result()
            ordered.answers = self.engine.gather(share, ordered.questions, ordered.group_size)
            ordered.metrics, ordered.share = self.engine.metrics(), None
        return ordered

    def state_dict(self) -> dict[str, Any]:
        """Waits for what is being written; every rank calls it. Plain types."""
        ordered = self._gathered()
        if ordered is None:
            return {}
        return {
            "questions": [asdict(q) for q in ordered.questions],
            "answers": [[asdict(c) for c in group] for group in ordered.answers],
            "metrics": ordered.metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wait()
        self._ordered = None
        if state:
            answers = [[Completion(**c) for c in group] for group in state["answers"]]
            questions = [Question(**q) for q in state["questions"]]
            self._ordered = _Ordered(questions, len(answers[0]), None, answers, dict(state["metrics"]))

    def close(self) -> None:
        """Let the thread end; what is being written is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
