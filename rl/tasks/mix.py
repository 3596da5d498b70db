"""Builds the task that a TaskConfig names, and asks several by weight."""

import random
from itertools import accumulate
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from rl.tasks.base import Prompter, Task, TaskConfig, difficulty, prompter
from rl.tasks.countdown import Countdown
from rl.tasks.gym import FAMILIES, GymTask
from rl.types import Question

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer


def build_task(cfg: TaskConfig, tokenizer: "Tokenizer | None" = None) -> Task:
    """The one task of cfg.names, or a mix of several; asked as the tokenizer's model reads it.

    Raises ConfigError for a name that does not exist, and for a template that the model has not.
    """
    template = cfg.template if tokenizer is None else prompter(cfg.template, tokenizer)
    tasks = [_task(name, cfg.seed, template) for name in cfg.names]
    return tasks[0] if len(tasks) == 1 else Mix(tasks, cfg.weights or [1.0] * len(tasks), seed=cfg.seed)


def _task(name: str, seed: int, template: Prompter) -> Task:
    if name == Countdown.name:
        return Countdown(seed=seed, template=template)
    if name in FAMILIES:
        return GymTask(name, seed=seed, template=template)
    known = ", ".join([Countdown.name, *FAMILIES])
    raise ConfigError("task.names", name, "there is no such task", f"choose from {known}")


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
