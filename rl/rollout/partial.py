"""Partial rollouts (K §2.6.2): in one iteration an answer grows by at most so many tokens; what is unfinished waits in
a replay buffer and goes on in the next, with the weights of then. No long answer holds up a step.

A group is trained on once all of its answers have ended, so steps have more groups or fewer; an iteration in which
none would be complete writes on with the same weights until one is. Each token keeps the logprob it was drawn with,
each segment the version of the weights that wrote it. Trained on is each answer's last segment, what the newest
weights wrote of it; earlier segments are context (rl.rollout.partial_loss=last; K: "certain segments can be excluded
from loss computation"), or trained on, too (all). An answer that waits for its siblings is as stale as it waited:
rl.importance_cap corrects for that. What is unfinished when the stage ends is dropped, so its first steps favour groups
of short answers.

A token is a function of the weights, the answer's seed and its position: while the weights stay, an answer in parts is
the answer written at once.
"""

from dataclasses import asdict, dataclass
from typing import Any

from modeling.sampling import Sampled
from rl.config import RolloutConfig
from rl.rollout.local import LocalEngine
from rl.rollout.sharing import answer_seed
from rl.types import Completion, Question


@dataclass(slots=True)
class _Answer:
    """One answer as far as it is written."""

    seed: int
    written: Sampled
    segments: list[tuple[int, int]]
    "(version of the weights, tokens), in order."
    ended: bool = False
    repeats: bool = False

    def append(self, more: Sampled, version: int) -> None:
        """Tokens that weights of this version wrote."""
        for name in ("tokens", "logprobs", "entropies"):
            getattr(self.written, name).extend(getattr(more, name))
        self.written.stopped = more.stopped
        count = len(more.tokens)
        if self.segments and self.segments[-1][0] == version:
            count += self.segments.pop()[1]
        self.segments.append((version, count))


@dataclass(slots=True)
class _Asked:
    """A question whose answers are being written, or were."""

    question: Question
    answers: list[_Answer]

    @property
    def ended(self) -> bool:
        return all(answer.ended for answer in self.answers)


class PartialRollouts:
    """Writes answers over several steps; the buffer is part of a checkpoint. Every rank calls everything here."""

    def __init__(self, engine: LocalEngine, cfg: RolloutConfig) -> None:
        self.engine, self.cfg = engine, cfg
        self._buffer: list[_Asked] = []

    def generate(
        self, questions: list[Question], group_size: int, *, step: int
    ) -> tuple[list[Question], list[list[Completion]], dict[str, float]]:
        """One iteration: ask these, write on at what is unfinished -> the questions whose answers have all ended, these
        [question][group], and metrics."""
        for question in questions:
            seeds = [answer_seed(self.engine.seed, step, question.id, index) for index in range(group_size)]
            answers = [_Answer(seed, Sampled([], [], [], stopped=False), []) for seed in seeds]
            self._buffer.append(_Asked(question, answers))
        done: list[_Asked] = []
        while not done:
            self._write_on()
            done = [asked for asked in self._buffer if asked.ended]
        self._buffer = [asked for asked in self._buffer if not asked.ended]
        completions = [[self._completion(asked.question, answer) for answer in asked.answers] for asked in done]
        return [asked.question for asked in done], completions, self._metrics(completions)

    def _write_on(self) -> None:
        """Every unfinished answer grows by at most cfg.partial_tokens."""
        prompts = {asked.question.prompt: self.engine.prompt_ids(asked.question) for asked in self._buffer}
        unfinished = [(prompts[a.question.prompt], o) for a in self._buffer for o in a.answers if not o.ended]
        unfinished.sort(key=lambda one: -len(one[1].written.tokens))  # rows of like length read faster together
        written = self.engine.go_on(
            [prompt for prompt, _ in unfinished],
            [list(answer.written.tokens) for _, answer in unfinished],
            [answer.seed for _, answer in unfinished],
            more=self.cfg.partial_tokens,
        )
        for (prompt, answer), more in zip(unfinished, written, strict=True):
            answer.append(more, self.engine.version)
            tokens = answer.written.tokens
            answer.ended = more.stopped or len(tokens) >= self.engine.limit(prompt)
            if not answer.ended and repeats(tokens, self.cfg.repeat_ngram, self.cfg.repeat_times):
                answer.ended = answer.repeats = True

    def _completion(self, question: Question, answer: _Answer) -> Completion:
        completion = self.engine.completion(question, answer.written, answer.segments[-1][0])
        completion.segments, completion.repeats = list(answer.segments), answer.repeats
        return completion

    def _metrics(self, completions: list[list[Completion]]) -> dict[str, float]:
        """Groups given; answers that go on; of those given, the shares written over several steps, and cut as loops."""
        given = [completion for group in completions for completion in group]
        metrics = {
            "rl/partial_groups": float(len(completions)),
            "rl/partial_unfinished": float(sum(not o.ended for asked in self._buffer for o in asked.answers)),
            "rl/partial_carried_frac": sum(len(c.segments) > 1 for c in given) / len(given),
        }
        if self.cfg.repeat_ngram:
            metrics["rl/repetition_frac"] = sum(c.repeats for c in given) / len(given)
        return self.engine.metrics() | metrics

    def state_dict(self) -> dict[str, Any]:
        """The buffer in plain types."""
        return {"buffer": [asdict(asked) for asked in self._buffer]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._buffer = []
        for asked in state["buffer"]:
            answers = [_Answer(**(answer | {"written": Sampled(**answer["written"])})) for answer in asked["answers"]]
            self._buffer.append(_Asked(Question(**asked["question"]), answers))


def repeats(tokens: list[int], ngram: int, times: int) -> bool:
    """Whether an answer goes round in circles: its last `ngram` tokens stand in it `times` times without overlap, its
    end included. ngram 0: never.

    >>> repeats([1, 2, 3, 2, 3, 2, 3], ngram=2, times=3), repeats([2, 3, 1, 2, 3], ngram=2, times=3)
    (True, False)
    """
    if not ngram or len(tokens) < ngram * times:
        return False
    last, found, at = tokens[-ngram:], 0, len(tokens)
    while at >= ngram and found < times:
        if tokens[at - ngram : at] == last:
            found, at = found + 1, at - ngram
        else:
            at -= 1
    return found == times
