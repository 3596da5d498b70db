"""RL for all scenarios (R1 §2.3.4): reasoning by rules, and in the last part of the steps general questions as well.

The loop is rl/stages/zero.py's. Preference rewards judge general questions only, so that those are asked, and paid by
preference, only in the last part (R1: the last 400 of 1,700 steps, as more of them led to reward hacking).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rl.config import RLConfig
from rl.stages import zero
from rl.stages.config import ScenariosConfig
from rl.tasks.base import Task, TaskConfig
from rl.tasks.mix import Mix, build_task
from rl.types import Question

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer

STAGE = "all_scenarios"

run = partial(zero.run, stage=STAGE)
"""zero.run as this stage: checkpoint in, checkpoint out."""


class Scenarios:
    """Reasoning questions, and from question number `first_general` on a mix of them with general ones.

    A question depends on its number alone, so a resumed run asks what an uninterrupted one would. Evaluation is on
    reasoning, as in the stages before.
    """

    def __init__(self, reasoning: Task, general: Task, *, first_general: int, share: float, seed: int) -> None:
        self.reasoning, self.general, self.first_general = reasoning, general, first_general
        self.mixed = Mix([reasoning, general], [1 - share, share], seed=seed)
        self.name = reasoning.name
        self.general_names = set(getattr(general, "by_name", {general.name: general}))

    def train_question(self, i: int) -> Question:
        """Question i; meta["general"] tells the preference rewards which are theirs."""
        if i < self.first_general:
            return self.reasoning.train_question(i)
        question = self.mixed.train_question(i)
        if question.task in self.general_names:
            question.meta["general"] = True
        return question

    def test_questions(self, n: int) -> list[Question]:
        """Held-out reasoning questions."""
        return self.reasoning.test_questions(n)

    def score(self, question: Question, text: str) -> float:
        """The judgement of the question's own task."""
        return (self.general if question.task in self.general_names else self.reasoning).score(question, text)


def tasks(scenarios: ScenariosConfig, cfg: RLConfig) -> "Callable[[TaskConfig, Tokenizer], Task]":
    """What makes the stage's task, for zero.run; without general tasks it is reasoning alone."""

    def make(task_cfg: TaskConfig, tokenizer: "Tokenizer") -> Task:
        reasoning = build_task(task_cfg, tokenizer)
        if not scenarios.general or not scenarios.general_part or not scenarios.general_share:
            return reasoning
        general = build_task(replace(task_cfg, names=scenarios.general, weights=[]), tokenizer)
        first_step = cfg.steps - round(scenarios.general_part * cfg.steps)
        return Scenarios(
            reasoning,
            general,
            first_general=first_step * cfg.questions_per_step,
            share=scenarios.general_share,
            seed=task_cfg.seed,
        )

    return make
