"""Long2short (K §2.4): settings, and which of a long model's answers a short one learns from. Loads without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from infra.errors import ConfigError


class Long2ShortMethod(Enum):
    """The four ways from a model that thinks long to one that thinks short."""

    merge = "merge"
    rejection = "rejection"
    dpo = "dpo"
    rl = "rl"


@dataclass(kw_only=True, slots=True)
class Long2ShortConfig:
    """From a model that thinks long to one that thinks short."""

    method: Long2ShortMethod = Long2ShortMethod.merge
    "merge (average the weights with a short model's), rejection (SFT on shortest right ones), dpo or rl."
    checkpoint: str = ""
    "The model that thinks long: a run, a checkpoint or a Hugging Face folder."
    short: str = ""
    "merge: the model that thinks short, of the same shape and vocabulary; a run or a Hugging Face folder."
    share: float = 0.5
    "merge: the long model's part of the average."
    questions: int = 256
    "rejection, dpo: training questions asked."
    samples: int = 8
    "rejection, dpo: answers to each."
    longer: float = 1.5
    "dpo: right answers this many times as long as the shortest right one are rejected."
    response_tokens: int = 128
    "rl: longest response, instead of sampling.max_response_tokens."

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError("long2short.share", self.share, "is a share", "set it from 0 to 1")
        for key in ("questions", "response_tokens"):
            if getattr(self, key) < 1:
                raise ConfigError(f"long2short.{key}", getattr(self, key), "leaves nothing to do", "set at least 1")
        if self.samples < 2:
            raise ConfigError("long2short.samples", self.samples, "there is nothing to choose from", "set 8")
        if not self.longer > 1:
            raise ConfigError("long2short.longer", self.longer, "has to be more than 1", "set 1.5")

    def check(self, length: float, max_response_tokens: int) -> None:
        """Raise ConfigError where the method lacks something: reward.length, or a limit below the sampler's."""
        if not self.checkpoint:
            raise ConfigError(
                "long2short.checkpoint", "", "there is no long model", "set long2short.checkpoint=runs/zero"
            )
        if self.method is Long2ShortMethod.merge and not self.short:
            raise ConfigError("long2short.short", "", "there is no short model to merge with", "name its folder")
        if self.method is not Long2ShortMethod.rl:
            return
        if length <= 0:
            raise ConfigError("reward.length", length, "long2short RL pays for being short", "set reward.length=0.5")
        if self.response_tokens >= max_response_tokens:
            problem = f"is not below sampling.max_response_tokens={max_response_tokens}"
            raise ConfigError("long2short.response_tokens", self.response_tokens, problem, "set half of it")


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer.

    Example: Answer("<think>...</think><answer>8*5</answer>", tokens=61, right=True)
    """

    text: str
    tokens: int
    right: bool


def shortest_right(answers: Sequence[Answer]) -> Answer | None:
    """Shortest rejection sampling: the shortest right answer to a question, the first of equals; None without any."""
    return min((answer for answer in answers if answer.right), key=lambda answer: answer.tokens, default=None)


def rejected(answers: Sequence[Answer], chosen: Answer, longer: float) -> list[Answer]:
    """DPO's negatives to the shortest right answer: longer wrong ones, and right ones `longer` times as long, each text
    once. A wrong answer that is short is left out: losing to a longer one, it would teach length.

    chosen of 10 tokens, longer = 1.5: right ones from 15 tokens, wrong ones from 11.
    """
    found = {}
    for answer in answers:
        if answer.tokens >= longer * chosen.tokens if answer.right else answer.tokens > chosen.tokens:
            found.setdefault(answer.text, answer)
    return list(found.values())


def sft_rows(asked: Sequence[tuple[str, Sequence[Answer]]]) -> list[dict[str, str]]:
    """(prompt, answers) -> rows {prompt, response}: one for each question that has a right answer."""
    best = [(prompt, shortest_right(answers)) for prompt, answers in asked]
    return [{"prompt": prompt, "response": answer.text} for prompt, answer in best if answer is not None]


def pair_rows(asked: Sequence[tuple[str, Sequence[Answer]]], longer: float) -> list[dict[str, str]]:
    """(prompt, answers) -> rows {prompt, chosen, rejected}: one for each negative."""
    rows = []
    for prompt, answers in asked:
        chosen = shortest_right(answers)
        for answer in rejected(answers, chosen, longer) if chosen else ():
            rows.append({"prompt": prompt, "chosen": chosen.text, "rejected": answer.text})
    return rows
