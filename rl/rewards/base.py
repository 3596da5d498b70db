"""What an answer earns: accuracy and format by rule, their sum (R1 §2.2.2), and the parts kept beside it.

No rule looks at self-checks, and none at length unless reward.length asks for Kimi's (K §2.3.3).
"""

from dataclasses import dataclass
from typing import Protocol

from infra.errors import ConfigError
from rl.rewards.format import format_ok
from rl.rewards.length import length_rewards, length_weight
from rl.types import Group, Question


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """What is paid for."""

    accuracy: float = 1.0
    "Reward of a right answer."
    format: float = 0.1
    "Reward of the right format, whether the answer is right or not."
    length: float = 0.0
    "Weight of Kimi's length reward, 0.5 for a group's shortest answer to -0.5 for its longest (K §2.3.3); 0: off."
    length_warmup: float = 0.0
    "Share of the steps that are done before the length reward counts."
    repetition: float = 0.0
    "Taken off an answer that was cut for repeating itself (rl.rollout.repeat_ngram)."

    def __post_init__(self) -> None:
        if not 0 < self.accuracy < float("inf"):
            raise ConfigError(
                "reward.accuracy", self.accuracy, "a right answer has to earn something finite", "set 1.0"
            )
        if not 0 <= self.format < self.accuracy:
            raise ConfigError(
                "reward.format", self.format, "has to be at least 0 and less than a right answer earns", "set 0.1"
            )
        if not 0 <= self.length < 2 * (self.accuracy - self.format):
            raise ConfigError(
                "reward.length",
                self.length,
                "a long right answer, which loses half of it, has to earn more than a wrong one",
                f"set it from 0 to below {2 * (self.accuracy - self.format):g}",
            )
        if not 0 <= self.length_warmup <= 1:
            raise ConfigError("reward.length_warmup", self.length_warmup, "is a share of the steps", "set 0.5")
        if not 0 <= self.repetition < float("inf"):
            raise ConfigError("reward.repetition", self.repetition, "is taken off: 0 or more", "set 0 for none")


class Judge(Protocol):
    """The part of a task that rewards need."""

    def score(self, question: Question, text: str) -> float:
        """1.0 where the final answer in the response `text` is right, else 0.0."""
        ...


def score(text: str, question: Question, task: Judge, cfg: RewardConfig) -> tuple[float, dict[str, float]]:
    """-> (reward, breakdown); breakdown has accuracy and format, each 0 or 1.

    With the defaults: right in the right format 1.1, right in another 1.0, wrong in the right format 0.1, else 0.0.
    """
    accuracy = task.score(question, text)
    well_formed = float(format_ok(text))
    reward = cfg.accuracy * accuracy + cfg.format * well_formed
    return reward, {"accuracy": accuracy, "format": well_formed}


def score_groups(groups: list[Group], task: Judge, cfg: RewardConfig, *, progress: float = 1.0) -> None:
    """Set reward and breakdown of every completion. progress: share of the stage's steps that are done."""
    for group in groups:
        for completion in group.completions:
            completion.reward, completion.breakdown = score(completion.text, group.question, task, cfg)
            if cfg.repetition > 0:
                completion.breakdown["repetition"] = float(completion.repeats)
                completion.reward -= cfg.repetition * completion.repeats
        if cfg.length > 0:
            _add_length(group, length_weight(cfg.length, cfg.length_warmup, progress))


def _add_length(group: Group, weight: float) -> None:
    """K §2.3.3, beside what the rules gave."""
    lengths = [len(c.tokens) for c in group.completions]
    right = [c.breakdown["accuracy"] == 1.0 for c in group.completions]
    for completion, reward in zip(group.completions, length_rewards(lengths, right), strict=True):
        completion.breakdown["length"] = reward
        completion.reward += weight * reward
