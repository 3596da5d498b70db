"""The settings of `r1 rlaif`; without torch."""

from dataclasses import dataclass, field

from infra.errors import ConfigError
from rl.rewards.judge_config import JudgeConfig


@dataclass(kw_only=True, slots=True)
class RLAIFConfig:
    """Preference pairs from a judge: a model answers each question several times, the judge compares two at a time."""

    checkpoint: str = ""
    "The model that answers: a run, a checkpoint or a Hugging Face folder."
    questions: int = 64
    "Training questions that are asked."
    samples: int = 4
    "Answers to each."
    pairs_per_question: int = 2
    "Comparisons for each question, of answers that differ."
    questions_per_chunk: int = 32
    "Questions that are answered and judged together; what is done is kept."
    principles: str = ""
    "File of principles, one a line; empty: rl/principles.txt."
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    "Who compares."

    def __post_init__(self) -> None:
        for key in ("questions", "pairs_per_question", "questions_per_chunk"):
            if getattr(self, key) < 1:
                raise ConfigError(f"rlaif.{key}", getattr(self, key), "nothing would be compared", "set 1 or more")
        if self.samples < 2:
            raise ConfigError("rlaif.samples", self.samples, "a comparison needs two answers", "set 4")
