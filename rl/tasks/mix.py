"""Builds the task that a TaskConfig names, and asks several by weight; the suites that an evaluation goes through."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from rl.tasks.base import Prompter, Task, TaskConfig, difficulty, prompter
from rl.tasks.benchmarks import BENCHMARKS, BenchmarkTask, files_by_name
from rl.tasks.code import Code
from rl.tasks.countdown import Countdown
from rl.tasks.countdown_image import CountdownImage
from rl.tasks.derivatives import Derivatives
from rl.tasks.general import RULES, GeneralTask
from rl.tasks.gym import FAMILIES, GymTask
from rl.tasks.problems import PROBLEMS, Problems
from rl.types import Question

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer

REASONING = (Countdown.name, *FAMILIES, Derivatives.name)
GENERAL = tuple(RULES)
NAMES = (*REASONING, *GENERAL, *BENCHMARKS, Code.name, CountdownImage.name)


def build_task(cfg: TaskConfig, tokenizer: "Tokenizer | None" = None) -> Task:
    """The one task of cfg.names, or a mix of several; asked as the tokenizer's model reads it.

    Raises ConfigError for a name that does not exist, and for a template that the model has not; with a tokenizer, as
    then it will be asked, SandboxError for code where it cannot be run.
    """
    tasks = build_tasks(cfg, tokenizer)
    return tasks[0] if len(tasks) == 1 else Mix(tasks, cfg.weights or [1.0] * len(tasks), seed=cfg.seed)


def build_tasks(cfg: TaskConfig, tokenizer: "Tokenizer | None" = None) -> list[Task]:
    """The tasks of cfg.names, each by itself. Raises as build_task does."""
    template = cfg.template if tokenizer is None else prompter(cfg.template, tokenizer)
    return [_task(name, cfg, template, ready=tokenizer is not None) for name in cfg.names]


def suite(cfg: TaskConfig, name: str) -> TaskConfig:
    """The settings with the tasks of a suite: reasoning, general, or all.

    Reasoning has the benchmarks that lie under task.path, too; none is fetched for it.
    """
    folder = Path(cfg.path).expanduser()
    there = [b for b in BENCHMARKS if cfg.path and folder.is_dir() and files_by_name(b, folder)]
    names = {"reasoning": [*REASONING, *there], "general": [*GENERAL], "all": [*REASONING, *there, *GENERAL]}
    return replace(cfg, names=names[name], weights=[])


def _task(name: str, cfg: TaskConfig, template: Prompter, *, ready: bool) -> Task:
    """ready: whether it will be asked, not only judged as a setting: what it needs of this machine has to be there."""
    if name == Code.name:
        return Code(cfg.code, seed=cfg.seed, template=template, ready=ready)
    if name in PROBLEMS:
        where = {"path": cfg.path, "bad_share": cfg.bad_rows}
        return Problems(name, cfg.code, **where, seed=cfg.seed, template=template, ready=ready)
    if name in (Countdown.name, CountdownImage.name):
        return (Countdown if name == Countdown.name else CountdownImage)(seed=cfg.seed, template=template)
    if name == Derivatives.name:
        return Derivatives(seed=cfg.seed, template=template)
    if name in FAMILIES:
        return GymTask(name, seed=cfg.seed, template=template)
    if name in RULES:
        return GeneralTask(name, seed=cfg.seed, template=template)
    if name in BENCHMARKS:
        return BenchmarkTask(name, path=cfg.path, bad_share=cfg.bad_rows, seed=cfg.seed, template=template)
    raise ConfigError("task.names", name, "there is no such task", f"choose from {', '.join(NAMES)}")


class Mix:
    """Several tasks as one; each question is judged by the task that asked it."""

    name = "mix"

    def __init__(self, tasks: list[Task], weights: list[float], *, seed: int) -> None:
        self.tasks, self.weights, self.seed = tasks, weights, seed
        self.by_name = {task.name: task for task in tasks}

    def train_question(self, i: int) -> Question:
        """Question i of a task drawn by weight."""
        task = random.Random(f"mix/{self.seed}/{i}").choices(self.tasks, self.weights)[0]
        return task.train_question(i)

    def test_questions(self, n: int) -> list[Question]:
        """Held-out questions of each task in proportion to its weight (rounded), task after task."""
        ends = [round(n * share / sum(self.weights)) for share in accumulate(self.weights)]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return [q for task, count in zip(self.tasks, counts, strict=True) for q in task.test_questions(count)]

    def difficulty(self, question: Question) -> float:
        """What the question's own task says, on that task's scale."""
        return difficulty(self.by_name[question.task], question)

    def score(self, question: Question, text: str) -> float:
        """The judgement of the question's own task."""
        return self.by_name[question.task].score(question, text)

    def score_parts(self, question: Question, text: str) -> tuple[float, dict[str, float]]:
        """The same with the parts that the task has besides, as code has."""
        task = self.by_name[question.task]
        by_parts = getattr(task, "score_parts", None)
        return by_parts(question, text) if by_parts else (task.score(question, text), {})

    def prepare(self, answers: Sequence[tuple[Question, str]]) -> None:
        """Tell each task that judges in batches what it will be asked."""
        for name, task in self.by_name.items():
            if hasattr(task, "prepare"):
                task.prepare([(question, text) for question, text in answers if question.task == name])
