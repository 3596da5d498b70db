"""What an answer earns: accuracy and format by rule, their sum (R1 §2.2.2), and the parts kept beside it.

No rule looks at length or at self-checks.
"""

from dataclasses import dataclass
from typing import Protocol

from infra.errors import ConfigError
from rl.rewards.format import format_ok
from rl.types import Group, Question


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """What is paid for."""

    accuracy: float = 1.0
    "Reward of a right answer."
    format: float = 0.1
    "Reward of the right format, whether the answer is right or not."
    tests: float = 0.0
    "Reward of a program that passes some of its tests, in proportion; accuracy pays for all of them alone."

    def __post_init__(self) -> None:
        if not 0 < self.accuracy < float("inf"):
            raise ConfigError(
                "reward.accuracy", self.accuracy, "a right answer has to earn something finite", "set 1.0"
            )
        if not 0 <= self.format < self.accuracy:
            raise ConfigError(
                "reward.format", self.format, "has to be at least 0 and less than a right answer earns", "set 0.1"
            )
        if not 0 <= self.tests < float("inf"):
            raise ConfigError("reward.tests", self.tests, "has to be 0 or more, and finite", "set 0.2")


class Judge(Protocol):
    """The part of a task that rewards need. What grades in parts has also
    `score_parts(question, text) -> (accuracy, {part: 0 to 1})`, which is called instead of score; what judges in
    batches has also `prepare([(question, text), ...])`, which is called before."""

    def score(self, question: Question, text: str) -> float:
        """1.0 where the final answer in the response `text` is right, else 0.0."""
        ...


def score(text: str, question: Question, task: Judge, cfg: RewardConfig) -> tuple[float, dict[str, float]]:
    """-> (reward, breakdown); breakdown has accuracy and format, each 0 or 1, and what the task adds, as tests.

    With the defaults: right in the right format 1.1, right in another 1.0, wrong in the right format 0.1, else 0.0.
    """
    by_parts = getattr(task, "score_parts", None)
    accuracy, more = by_parts(question, text) if by_parts else (task.score(question, text), {})
    well_formed = float(format_ok(text))
    reward = cfg.accuracy * accuracy + cfg.format * well_formed + cfg.tests * more.get("tests", 0.0)
    return reward, {"accuracy": accuracy, "format": well_formed} | more


def score_groups(groups: list[Group], task: Judge, cfg: RewardConfig) -> None:
    """Set reward and breakdown of every completion."""
    if hasattr(task, "prepare"):
        task.prepare([(group.question, c.text) for group in groups for c in group.completions])
    for group in groups:
        for completion in group.completions:
            completion.reward, completion.breakdown = score(completion.text, group.question, task, cfg)
