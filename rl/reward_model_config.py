"""The settings of `r1 reward_model`; without torch."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from training.config import OptimizerConfig
from training.schedules import ScheduleConfig


class Reads(Enum):
    """The part of a response that a reward model sees (R1 §2.3.4)."""

    summary = "summary"
    response = "response"


@dataclass(kw_only=True, slots=True)
class RewardModelConfig:
    """A reward model: the network of a checkpoint with one number for its head, trained on preference pairs."""

    checkpoint: str = ""
    "The language model to start from: a run, a checkpoint or a Hugging Face folder."
    pairs: str = ""
    'JSONL or Parquet of {"prompt", "chosen", "rejected"}; empty: made pairs, of helpfulness for summary, else harm.'
    max_bad: float = 0.01
    "Share of the file's rows that may be unusable (no answer, no JSON, an id twice); above it nothing is trained."
    made_pairs: int = 4000
    "How many pairs are made where no file is given."
    reads: Reads = Reads.summary
    "summary (what follows the thinking: helpfulness) or response (thinking included: harmlessness)."
    held_out: float = 0.1
    "Share of the prompts, by hash, whose pairs are only evaluated on."
    epochs: int = 2
    "Times that each pair is trained on."
    pairs_per_step: int = 32
    "Pairs of one optimiser step, over all ranks."
    micro_batch_tokens: int = 8192
    "Padded tokens of one forward and backward pass on one rank."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, weight_decay=0.0))
    "Optimiser of the stage."
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            warmup=0.05, decay=0.5, mtp_lambda=0.0, mtp_lambda_late=0.0, bias_speed=0.0
        )
    )
    "Learning rate over the stage."
    evaluate_every: int = 50
    "Steps between measurements on held-out pairs."
    save_every: int = 50
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        for key in "made_pairs epochs pairs_per_step micro_batch_tokens evaluate_every save_every".split():
            if getattr(self, key) < 1:
                raise ConfigError(f"reward_model.{key}", getattr(self, key), "nothing would be learnt", "set 1 or more")
        if not 0 < self.held_out < 1:
            raise ConfigError("reward_model.held_out", self.held_out, "is a share of the prompts", "set 0.1")
        if not 0 <= self.max_bad < 1:
            raise ConfigError("reward_model.max_bad", self.max_bad, "is a share", "set it from 0 to below 1")
        if self.schedule.mtp_lambda or self.schedule.mtp_lambda_late:
            problem = "a reward model predicts no tokens"
            raise ConfigError("reward_model.schedule.mtp_lambda", self.schedule.mtp_lambda, problem, "set both to 0")
