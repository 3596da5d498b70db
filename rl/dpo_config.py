"""The settings of a DPO stage (Rafailov et al. 2023); without torch."""

from dataclasses import dataclass, field

from infra.errors import ConfigError
from training.config import OptimizerConfig
from training.schedules import ScheduleConfig


@dataclass(kw_only=True, slots=True)
class DPOConfig:
    """One DPO stage on pairs of answers, one chosen and one rejected."""

    checkpoint: str = ""
    "The model to start from, and the reference: a run, a checkpoint or a Hugging Face folder."
    data: str = ""
    "JSONL or Parquet file of {prompt, chosen, rejected}: a prompt as the model reads it, and two responses to it."
    max_bad: float = 0.01
    "Share of the file's rows that may be unusable (no answer, no JSON, an id twice); above it nothing is trained."
    held_out: float = 0.1
    "Share of the prompts, chosen by hash, whose pairs are only evaluated on; 0 for none."
    epochs: float = 1.0
    "Times that each pair is trained on."
    pairs_per_step: int = 32
    "Pairs of one optimiser step, over all ranks."
    beta: float = 0.1
    "How much the policy's gain on the reference counts; larger stays closer to it."
    nll_coef: float = 0.0
    "Weight of the chosen answer's own loss per token beside it (Pang et al. 2024: 1); 0 is DPO itself."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-6, beta2=0.99, weight_decay=0.0))
    "The optimiser of the policy."
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            warmup=0.1, decay=0.9, mtp_lambda=0.0, mtp_lambda_late=0.0, bias_speed=0.0
        )
    )
    "Learning rate over the stage; MTP and the router's bias rest by default."
    micro_batch_tokens: int = 8192
    "Padded tokens of one forward and backward pass on one rank, both answers counted."
    rollout_rows: int = 128
    "Answers written at the same time on one rank, in evaluations."
    evaluate_every: int = 20
    "Steps between small evaluations, on held-out pairs and on the task's questions."
    save_every: int = 20
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        for key in "pairs_per_step micro_batch_tokens rollout_rows evaluate_every save_every".split():
            if getattr(self, key) < 1:
                raise ConfigError(f"dpo.{key}", getattr(self, key), "nothing would happen", "set at least 1")
        for key in ("epochs", "beta"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"dpo.{key}", getattr(self, key), "nothing would be learned", "set it above 0")
        if not 0 <= self.held_out < 1:
            raise ConfigError("dpo.held_out", self.held_out, "is a share", "set it from 0 to below 1")
        if not 0 <= self.max_bad < 1:
            raise ConfigError("dpo.max_bad", self.max_bad, "is a share", "set it from 0 to below 1")
        if self.nll_coef < 0:
            raise ConfigError("dpo.nll_coef", self.nll_coef, "would unlearn the chosen answers", "set 0 for none")
