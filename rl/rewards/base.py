"""What an answer earns: a weighted sum of named rewards (R1 §2.2.2, §2.3.2, §2.3.4), the parts kept beside it.

Rules judge an answer by itself and always count; others look at whole groups (reward models, a judge) and may not apply
to a question. No rule looks at self-checks, and none at length unless reward.length asks for Kimi's (K §2.3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.errors import ConfigError
from rl.language import target_language, thinking_language_share
from rl.rewards.format import format_ok
from rl.rewards.judge_config import JudgeConfig
from rl.rewards.length import length_rewards, length_weight
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
    summary: bool = False
    "The right format has a summary between </think> and <answer>: from the cold start on (R1 §2.3.1)."
    language: float = 0.0
    "Reward of thinking all in the question's language, in proportion to the share of its words (R1 §2.3.2)."
    helpful: str = ""
    "Folder of a reward model that reads the summary, for general questions; made by r1 reward_model; empty: none."
    helpful_weight: float = 1.0
    "Reward of the best summary in its eyes."
    harmless: str = ""
    "Folder of a reward model that reads the whole response, for general questions; empty: none."
    harmless_weight: float = 1.0
    "Reward of the best response in its eyes."
    judge_weight: float = 0.0
    "Reward of the best answer in the judge's eyes, for general questions; 0: the judge is not asked."
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    "The model that judges."
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
        for key in ("tests", "language", "helpful_weight", "harmless_weight", "judge_weight", "repetition"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"reward.{key}", getattr(self, key), "has to be 0 or more, and finite", "set 0.1")
        if not 0 <= self.length < 2 * (self.accuracy - self.format):
            raise ConfigError(
                "reward.length",
                self.length,
                "a long right answer, which loses half of it, has to earn more than a wrong one",
                f"set it from 0 to below {2 * (self.accuracy - self.format):g}",
            )
        if not 0 <= self.length_warmup <= 1:
            raise ConfigError("reward.length_warmup", self.length_warmup, "is a share of the steps", "set 0.5")


class Judge(Protocol):
    """The part of a task that rewards need. What grades in parts has also
    `score_parts(question, text) -> (accuracy, {part: 0 to 1})`, which is called instead of score; what judges in
    batches has also `prepare([(question, text), ...])`, which is called before."""

    def score(self, question: Question, text: str) -> float:
        """1.0 where the final answer in the response `text` is right, else 0.0."""
        ...


class Reward(Protocol):
    """A reward that looks at more than one answer at a time. It sees the rules' parts in each breakdown."""

    name: str
    "Its key in the breakdown."
    weight: float
    "What 1 of it pays."

    def __call__(self, groups: list[Group]) -> list[list[float | None]]:
        """[question][group] values, not weighted; None where it does not apply. Every rank calls it and gets all."""
        ...


def is_general(question: Question) -> bool:
    """Whether preferences judge it, beside rules (R1 §2.3.4); its task says so in meta["general"]."""
    return bool(question.meta.get("general"))


def score(text: str, question: Question, task: Judge, cfg: RewardConfig) -> tuple[float, dict[str, float]]:
    """The rules alone: -> (reward, breakdown), with accuracy, format, what the task adds, language where it is paid.

    With the defaults: right in the right format 1.1, right in another 1.0, wrong in the right format 0.1, else 0.0.
    The task's further parts are kept; of them only tests (of code) is paid, where cfg.tests says so.
    """
    by_parts = getattr(task, "score_parts", None)
    accuracy, more = by_parts(question, text) if by_parts else (task.score(question, text), {})
    well_formed = float(format_ok(text, summary=cfg.summary))
    reward = cfg.accuracy * accuracy + cfg.format * well_formed + cfg.tests * more.get("tests", 0.0)
    breakdown = {"accuracy": accuracy, "format": well_formed} | more
    if cfg.language:
        breakdown["language"] = thinking_language_share(text, target_language(question)) or 0.0  # no word: nothing
        reward += cfg.language * breakdown["language"]
    return reward, breakdown


def score_groups(
    groups: list[Group], task: Judge, cfg: RewardConfig, more: Sequence[Reward] = (), *, progress: float = 1.0
) -> None:
    """Set reward and breakdown of every completion: the rules', then those of `more`, one after another.

    progress: share of the stage's steps that are done.
    """
    if hasattr(task, "prepare"):
        task.prepare([(group.question, c.text) for group in groups for c in group.completions])
    for group in groups:
        for completion in group.completions:
            completion.reward, completion.breakdown = score(completion.text, group.question, task, cfg)
            if cfg.repetition > 0:
                completion.breakdown["repetition"] = float(completion.repeats)
                completion.reward -= cfg.repetition * completion.repeats
        if cfg.length > 0:
            _add_length(group, length_weight(cfg.length, cfg.length_warmup, progress))
    for reward in more:
        for group, values in zip(groups, reward(groups), strict=True):
            for completion, value in zip(group.completions, values, strict=True):
                if value is not None:
                    completion.reward += reward.weight * value
                    completion.breakdown[reward.name] = value


def _add_length(group: Group, weight: float) -> None:
    """K §2.3.3, beside what the rules gave."""
    lengths = [len(c.tokens) for c in group.completions]
    right = [c.breakdown["accuracy"] == 1.0 for c in group.completions]
    for completion, reward in zip(group.completions, length_rewards(lengths, right), strict=True):
        completion.breakdown["length"] = reward
        completion.reward += weight * reward
