"""Evaluation on held-out questions: pass@1, pass@k, majority@k, lengths, format, language, reflection; intervals."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infra.errors import ConfigError
from infra.progress import Progress
from rl.budget import at_budget
from rl.evaluate_stats import bootstrap_ratio, majority_at_k, pass_at_k
from rl.language import target_language, thinking_language_share
from rl.metrics import sample_rows
from rl.reflection import reflects
from rl.rewards.accuracy import answer_of
from rl.rewards.base import RewardConfig, score_groups
from rl.tasks.base import Task, at_most
from rl.tasks.math import bare, plain_number
from rl.types import Completion, Group

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer
    from rl.evaluate_kept import Kept
    from rl.rollout.engine import RolloutEngine

ANSWERS_AT_A_TIME = 1024
"Between two marks of progress; an answer does not depend on those beside it."


class Suite(Enum):
    """Which tasks an evaluation goes through."""

    task = "task"
    reasoning = "reasoning"
    general = "general"
    all = "all"


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
    suite: Suite = Suite.task
    "task (task.names), reasoning (and the benchmarks under task.path), general, or all; evaluate.questions of each."
    budget: list[int] = field(default_factory=list)
    "Thinking budgets in tokens, as [0,64,128,256]: the thinking is cut there, and accuracy is drawn against tokens."
    json: bool = False
    "Print one JSON object instead of the table (r1 evaluate)."

    def __post_init__(self) -> None:
        if self.curve_questions < 0:
            raise ConfigError("evaluate.curve_questions", self.curve_questions, "cannot be negative", "set 0 for none")
        for key in ("questions", "samples", "curve_samples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"evaluate.{key}", getattr(self, key), "nothing would be measured", "set at least 1")
        if any(b < 0 for b in self.budget) or sorted(set(self.budget)) != list(self.budget):
            raise ConfigError("evaluate.budget", self.budget, "has to rise from 0 or more", "set it as in [0,64,128]")


@dataclass(slots=True)
class Interval:
    """A mean over answers with its 95 % bootstrap interval over questions."""

    mean: float
    low: float
    high: float


@dataclass(slots=True)
class Lengths:
    """Mean tokens; None where there is no such answer."""

    all: Interval
    correct: Interval | None
    wrong: Interval | None
    truncated: Interval | None
    "Those that the length limit cut."


@dataclass(slots=True)
class Evaluation:
    """One model on one set of held-out questions."""

    questions: int
    samples: int
    pass_at_1: Interval
    pass_at_k: dict[int, Interval]
    "k -> unbiased pass@k, for k = 1, 2, 4, ... and the number of samples."
    majority_at_k: Interval
    format_rate: Interval
    language_consistency: Interval | None
    "Share of the thinking's words that are in the question's language, over answers whose thinking has words."
    response_tokens: Lengths
    thinking_tokens: Lengths
    truncated: Interval
    reflection_rate: Interval
    groups: list[Group]
    "The scored answers themselves, in the order of the questions."

    def metrics(self, task: str) -> dict[str, float]:
        """For the tracker: area/name -> value."""
        language = self.language_consistency
        return {
            f"eval/{task}/pass_at_1": self.pass_at_1.mean,
            f"eval/{task}/pass_at_1_low": self.pass_at_1.low,
            f"eval/{task}/pass_at_1_high": self.pass_at_1.high,
            **{f"eval/{task}/pass_at_{k}": value.mean for k, value in self.pass_at_k.items() if k > 1},
            f"eval/{task}/majority_at_{self.samples}": self.majority_at_k.mean,
            "eval/format_rate": self.format_rate.mean,
            "eval/response_tokens": self.response_tokens.all.mean,
            "eval/thinking_tokens": self.thinking_tokens.all.mean,
            "eval/truncated_frac": self.truncated.mean,
            "eval/reflection_rate": self.reflection_rate.mean,
            **({"eval/language_consistency": language.mean} if language else {}),
        }


def evaluate(engine: RolloutEngine, task: Task, reward: RewardConfig, *, questions: int, samples: int) -> Evaluation:
    """Ask `questions` held-out questions `samples` times each. Every model is asked the same, with the same seeds."""
    asked = task.test_questions(questions)
    answers = engine.generate(asked, samples, step=-1)
    groups = [Group(question=q, completions=c) for q, c in zip(asked, answers, strict=True)]
    score_groups(groups, task, reward)
    return summarise(groups)


def evaluate_tasks(
    engine: RolloutEngine,
    tasks: list[Task],
    reward: RewardConfig,
    *,
    questions: int,
    samples: int,
    kept: Kept | None = None,
) -> dict[str, Evaluation]:
    """Each task by itself, in order: up to `questions` held-out questions of each, `samples` answers to each.

    kept: where answers are put as they come, and taken from when they are there already.
    """
    asked = {task.name: at_most(task, questions) for task in tasks}
    found = {}
    with Progress("evaluate", total=samples * sum(map(len, asked.values())), unit="answers") as progress:
        for task in tasks:
            groups: list[Group] = []
            few = max(1, ANSWERS_AT_A_TIME // samples)
            for start in range(0, len(asked[task.name]), few):
                part = asked[task.name][start : start + few]
                ask = partial(engine.generate, part, samples, step=-1)
                answers = kept.answers(f"{task.name}_{start:06d}", part, ask) if kept else ask()
                groups += [Group(question=q, completions=c) for q, c in zip(part, answers, strict=True)]
                progress.advance(len(part) * samples)
            score_groups(groups, task, reward)
            found[task.name] = summarise(groups)
    return found


def evaluate_budgets(
    engine: RolloutEngine,
    tokenizer: Tokenizer,
    tasks: list[Task],
    reward: RewardConfig,
    free: dict[str, Evaluation],
    budgets: list[int],
    kept: Kept | None = None,
) -> dict[int, dict[str, Evaluation]]:
    """budget -> task -> the answers of `free`, made by evaluate_tasks, with their thinking cut at the budget."""
    found: dict[int, dict[str, Evaluation]] = {}
    with Progress("budgets", total=len(budgets) * len(tasks), unit="tasks") as progress:
        for budget in budgets:
            found[budget] = {}
            for task in tasks:
                groups = free[task.name].groups
                ask = partial(at_budget, engine, tokenizer, groups, budget)
                asked = [group.question for group in groups]
                answers = kept.answers(f"{task.name}_budget{budget}", asked, ask) if kept else ask()
                groups = [Group(question=q, completions=c) for q, c in zip(asked, answers, strict=True)]
                score_groups(groups, task, reward)
                found[budget][task.name] = summarise(groups)
                progress.advance(1)
    return found


def together(evaluations: dict[str, Evaluation]) -> Evaluation:
    """All tasks' questions as one set; a task counts by its questions."""
    return summarise([group for evaluation in evaluations.values() for group in evaluation.groups])


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
    cut = np.array([[not c.stopped for c in g.completions] for g in groups])
    samples = right.shape[1]

    def each(value: Callable[[Completion], float]) -> np.ndarray:
        return np.array([[value(c) for c in g.completions] for g in groups], dtype=np.float64)

    def mean(values: np.ndarray, counted: np.ndarray | None = None) -> Interval | None:
        """values [question, sample], or [question]; counted: 1 where an answer counts."""
        counted = np.ones_like(values) if counted is None else counted.astype(np.float64)
        values, counted = values.reshape(len(groups), -1), counted.reshape(len(groups), -1)
        found = bootstrap_ratio(np.where(counted > 0, values, 0.0).sum(axis=1), counted.sum(axis=1))
        return None if found is None else Interval(*found)

    def lengths(values: np.ndarray) -> Lengths:
        return Lengths(mean(values), mean(values, right == 1.0), mean(values, right != 1.0), mean(values, cut))

    shares = np.array([_language_shares(g) for g in groups])
    return Evaluation(
        questions=len(groups),
        samples=samples,
        pass_at_1=mean(right),
        pass_at_k={k: mean(np.array([pass_at_k(samples, int(row.sum()), k) for row in right])) for k in _ks(samples)},
        majority_at_k=mean(np.array([_majority(g) for g in groups])),
        format_rate=mean(each(lambda c: c.breakdown["format"])),
        language_consistency=mean(shares, ~np.isnan(shares)),
        response_tokens=lengths(each(lambda c: len(c.tokens))),
        thinking_tokens=lengths(each(lambda c: c.thinking_tokens)),
        truncated=mean(cut.astype(np.float64)),
        reflection_rate=mean(each(lambda c: reflects(c.text))),
        groups=groups,
    )


def _ks(samples: int) -> list[int]:
    """1, 2, 4, ... and samples itself."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def _language_shares(group: Group) -> list[float]:
    """Of each answer's thinking; not a number where it has no words."""
    language = target_language(group.question)
    shares = [thinking_language_share(c.text, language) for c in group.completions]
    return [np.nan if share is None else share for share in shares]


def _majority(group: Group) -> float:
    return majority_at_k(
        [_vote(c.text) for c in group.completions], [c.breakdown["accuracy"] for c in group.completions]
    )


def _vote(text: str) -> str | None:
    """What an answer votes for: equal numbers are one vote however they are written; else the text."""
    answer = answer_of(text)
    if answer is None:
        return None
    number = plain_number(answer)
    return bare(answer) if number is None else str(number)
