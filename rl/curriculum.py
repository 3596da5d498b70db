"""Which questions are asked when (K §2.3.4): from easy to hard, or of a pool, evenly or more often those rarely solved.

All ask training questions only, whatever train_question(i) gives, and are the same on every rank: what they do next
is a function of the settings and of what was asked and scored before.
"""

from collections.abc import Sequence

import numpy as np

from infra.errors import ConfigError
from rl.config import QuestionOrder, RLConfig
from rl.questions import Questions
from rl.tasks.base import Task, difficulty
from rl.types import Group, Question


def build_questions(task: Task, cfg: RLConfig, *, seed: int) -> Questions:
    """The questions of a stage, in the order that is set. Raises ConfigError for a task without difficulty."""
    if cfg.questions.order is QuestionOrder.curriculum:
        return Curriculum(task, total=cfg.steps * cfg.questions_per_step)
    if cfg.questions.order.pooled:
        kind = Prioritised if cfg.questions.order is QuestionOrder.prioritised else Pooled
        return kind(task, pool=cfg.questions.pool, seed=seed)
    return Questions(task)


class Curriculum(Questions):
    """The questions that in_order would ask in `total` draws, in rising difficulty; equally difficult ones in order.

    In a mix the difficulties of different tasks are no one scale: each question stands where its own task's have come
    to. Draws beyond total go on in order.
    """

    def __init__(self, task: Task, *, total: int) -> None:
        super().__init__(task)
        asked = [task.train_question(i) for i in range(total)]
        self.order = rising([q.task for q in asked], [difficulty(task, q) for q in asked])

    def next(self, count: int) -> list[Question]:
        """The next `count` questions."""
        places = range(self.position, self.position + count)
        self.position += count
        return [self.task.train_question(self.order[i] if i < len(self.order) else i) for i in places]


def rising(tasks: Sequence[str], difficulties: Sequence[float]) -> list[int]:
    """Numbers of the questions by rising difficulty: each by the share of its own task's that are easier.

    >>> rising(["a", "a", "b", "b"], [7.0, 5.0, 100.0, 900.0])
    [1, 2, 0, 3]
    """
    place = np.zeros(len(tasks))
    for task in set(tasks):
        own = np.array([i for i, name in enumerate(tasks) if name == task])
        order = np.argsort(np.array(difficulties)[own], kind="stable")
        place[own[order]] = np.arange(len(own)) / len(own)
    return np.argsort(place, kind="stable").tolist()


class Pooled(Questions):
    """Questions of a pool, the task's first ones, all with the same probability. The questions of one draw differ.

    How often each was answered right is counted.
    """

    def __init__(self, task: Task, *, pool: int, seed: int) -> None:
        super().__init__(task)
        self.seed = seed
        self.right, self.answers = np.zeros(pool), np.zeros(pool)
        self._number: dict[str, int] = {}

    @property
    def weights(self) -> np.ndarray:
        """What the probabilities are proportional to, [pool]."""
        return np.ones(len(self.right))

    def next(self, count: int) -> list[Question]:
        """`count` different questions. position counts the draws: each has a random generator of its own."""
        rng, weights = np.random.default_rng([self.seed, self.position]), self.weights
        self.position += 1
        open_ones = np.flatnonzero(weights > 0)
        chosen = open_ones
        if len(open_ones) > count:
            share = weights[open_ones] / weights[open_ones].sum()
            chosen = rng.choice(open_ones, count, replace=False, p=share)
        solved = np.flatnonzero(weights <= 0)
        chosen = np.concatenate([chosen, rng.choice(solved, count - len(chosen), replace=False)])
        return [self._question(int(i)) for i in chosen]

    def _question(self, i: int) -> Question:
        question = self.task.train_question(i)
        self._number[question.id] = i
        return question

    def update(self, groups: list[Group]) -> None:
        """Count the right answers of groups that were asked here."""
        for group in groups:
            i = self._number[group.question.id]
            self.right[i] += sum(c.breakdown["accuracy"] for c in group.completions)
            self.answers[i] += len(group.completions)

    def state_dict(self) -> dict:
        return {
            "position": self.position,
            "right": self.right.tolist(),
            "answers": self.answers.tolist(),
            "number": dict(self._number),
        }

    def load_state_dict(self, state: dict) -> None:
        if len(state["right"]) != len(self.right):
            problem = f"the checkpoint's pool has {len(state['right'])} questions"
            raise ConfigError("rl.questions.pool", len(self.right), problem, "set that, or choose another run.dir")
        self.position, self._number = state["position"], dict(state["number"])
        self.right, self.answers = np.array(state["right"]), np.array(state["answers"])


class Prioritised(Pooled):
    """Questions of a pool with probability proportional to 1 - success rate.

    The success rate is the share of right answers among all that were given to the question; 0 before the first. Where
    too few have any weight left, the rest of the draw is uniform over the solved.
    """

    @property
    def weights(self) -> np.ndarray:
        """1 - success rate, [pool]."""
        return 1 - self.right / np.maximum(self.answers, 1)
