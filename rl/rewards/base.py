"""What an answer earns: accuracy and format by rule, their sum (R1 §2.2.2), and the parts kept beside it.

No rule looks at length or at self-checks.
"""

from dataclasses import dataclass
from typing import Protocol

from infra.errors import ConfigError
from rl.language import target_language, thinking_language_share
from rl.rewards.format import format_ok
from rl.types import Group, Question


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """What is paid for."""

    accuracy: float = 1.0
    "Reward of a right answer."
    format: float = 0.1
    "Reward of the right format, whether the answer is right or not."
    summary: bool = False
    "The right format has a summary between </think> and <answer>: from the cold start on (R1 §2.3.1)."
    language: float = 0.0
    "Reward of thinking all in the question's language, in proportion to the share of its words (R1 §2.3.2)."

    def __post_init__(self) -> None:
        if not 0 < self.accuracy < float("inf"):
            raise ConfigError(
                "reward.accuracy", self.accuracy, "a right answer has to earn something finite", "set 1.0"
            )
        if not 0 <= self.format < self.accuracy:
            raise ConfigError(
                "reward.format", self.format, "has to be at least 0 and less than a right answer earns", "set 0.1"
            )
        if not 0 <= self.language < float("inf"):
            raise ConfigError("reward.language", self.language, "has to be 0 or more, and finite", "set 0.1")


class Judge(Protocol):
    """The part of a task that rewards need."""

    def score(self, question: Question, text: str) -> float:
        """1.0 where the final answer in the response `text` is right, else 0.0."""
        ...


def score(text: str, question: Question, task: Judge, cfg: RewardConfig) -> tuple[float, dict[str, float]]:
    """-> (reward, breakdown); breakdown has accuracy and format, each 0 or 1, and language where it is paid.

    With the defaults: right in the right format 1.1, right in another 1.0, wrong in the right format 0.1, else 0.0.
    """
    accuracy = task.score(question, text)
    well_formed = float(format_ok(text, summary=cfg.summary))
    reward = cfg.accuracy * accuracy + cfg.format * well_formed
    breakdown = {"accuracy": accuracy, "format": well_formed}
    if cfg.language:
        breakdown["language"] = thinking_language_share(text, target_language(question)) or 0.0  # no word: nothing
        reward += cfg.language * breakdown["language"]
    return reward, breakdown


def score_groups(groups: list[Group], task: Judge, cfg: RewardConfig) -> None:
    """Set reward and breakdown of every completion."""
    for group in groups:
        for completion in group.completions:
            completion.reward, completion.breakdown = score(completion.text, group.question, task, cfg)
