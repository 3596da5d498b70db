"""Evaluation on held-out questions: pass@1, pass@k, majority@k, length, format, reflection, with intervals."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infra.errors import ConfigError
from rl.evaluate_stats import bootstrap_interval, majority_at_k, pass_at_k
from rl.metrics import sample_rows
from rl.reflection import reflects
from rl.rewards.accuracy import answer_of
from rl.rewards.base import RewardConfig, score_groups
from rl.rollout.engine import RolloutEngine
from rl.tasks.base import Task
from rl.types import Group

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """What is asked, how often."""

    questions: int = 128
    "Held-out questions asked in a full evaluation."
    samples: int = 8
    "Answers to each: k of pass@k and majority@k."
    curve_questions: int = 48
    "Held-out questions of the small evaluations that draw the curve during training; 0 leaves them out."
    curve_samples: int = 4
    "Answers to each in the small evaluations."
    checkpoint: str = ""
    "Folder of the model to evaluate (r1 evaluate): a run, a checkpoint or a Hugging Face folder."
    json: bool = False
    "Print one JSON object instead of the table (r1 evaluate)."

    def __post_init__(self) -> None:
        if self.curve_questions < 0:
            raise ConfigError("evaluate.curve_questions", self.curve_questions, "cannot be negative", "set 0 for none")
        for key in ("questions", "samples", "curve_samples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"evaluate.{key}", getattr(self, key), "nothing would be measured", "set at least 1")


@dataclass(slots=True)
class Interval:
    """A mean over questions with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(slots=True)
class Evaluation:
    """One model on one set of held-out questions."""

    questions: int
    samples: int
    pass_at_1: Interval
    pass_at_k: dict[int, float]
    "k -> unbiased pass@k, for k = 1, 2, 4, ... and the number of samples."
    majority_at_k: float
    format_rate: float
    response_tokens: float
    thinking_tokens: float
    truncated: float
    reflection_rate: float
    groups: list[Group]
    "The scored answers themselves, in the order of the questions."

    def metrics(self, task: str) -> dict[str, float]:
        """For the tracker: area/name -> value."""
        return {
            f"eval/{task}/pass_at_1": self.pass_at_1.mean,
            f"eval/{task}/pass_at_1_low": self.pass_at_1.low,
            f"eval/{task}/pass_at_1_high": self.pass_at_1.high,
            **{f"eval/{task}/pass_at_{k}": value for k, value in self.pass_at_k.items() if k > 1},
            f"eval/{task}/majority_at_{self.samples}": self.majority_at_k,
            "eval/format_rate": self.format_rate,
            "eval/response_tokens": self.response_tokens,
            "eval/thinking_tokens": self.thinking_tokens,
            "eval/truncated_frac": self.truncated,
            "eval/reflection_rate": self.reflection_rate,
        }


def evaluate(engine: RolloutEngine, task: Task, reward: RewardConfig, *, questions: int, samples: int) -> Evaluation:
    """Ask `questions` held-out questions `samples` times each. Every model is asked the same, with the same seeds."""
    asked = task.test_questions(questions)
    answers = engine.generate(asked, samples, step=-1)
    groups = [Group(question=q, completions=c) for q, c in zip(asked, answers, strict=True)]
    score_groups(groups, task, reward)
    return summarise(groups)


def write_answers(path: Path, evaluation: Evaluation, step: int, tokenizer: Tokenizer) -> None:
    """The evaluation's answers as Parquet, in the columns of the training samples; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    import pandas as pd  # slow to import, and the settings above are read before any work

    scratch = path.with_suffix(".tmp")
    pd.DataFrame(sample_rows(evaluation.groups, step, tokenizer)).to_parquet(scratch, compression="zstd")
    os.replace(scratch, path)


def summarise(groups: list[Group]) -> Evaluation:
    """Statistics of scored groups; intervals resample questions, as the answers to one are not independent."""
    right = np.array([[c.breakdown["accuracy"] for c in g.completions] for g in groups])
    samples = right.shape[1]
    completions = [c for g in groups for c in g.completions]
    mean, low, high = bootstrap_interval(right.mean(axis=1))
    return Evaluation(
        questions=len(groups),
        samples=samples,
        pass_at_1=Interval(mean, low, high),
        pass_at_k={k: float(np.mean([pass_at_k(samples, int(row.sum()), k) for row in right])) for k in _ks(samples)},
        majority_at_k=float(np.mean([_majority(g) for g in groups])),
        format_rate=float(np.mean([c.breakdown["format"] for c in completions])),
        response_tokens=float(np.mean([len(c.tokens) for c in completions])),
        thinking_tokens=float(np.mean([c.thinking_tokens for c in completions])),
        truncated=float(np.mean([not c.stopped for c in completions])),
        reflection_rate=float(np.mean([reflects(c.text) for c in completions])),
        groups=groups,
    )


def _ks(samples: int) -> list[int]:
    """1, 2, 4, ... and samples itself."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def _majority(group: Group) -> float:
    return majority_at_k(
        [answer_of(c.text) for c in group.completions], [c.breakdown["accuracy"] for c in group.completions]
    )
