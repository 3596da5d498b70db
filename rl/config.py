"""The settings of a GRPO stage (R1 §2.2; DSM §4.1); without torch."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from training.config import OptimizerConfig
from training.schedules import ScheduleConfig


class AdvantageKind(Enum):
    """Which baseline and which scale a group uses."""

    group_std = "group_std"
    group_mean = "group_mean"
    leave_one_out = "leave_one_out"


class LossWeighting(Enum):
    """How tokens are averaged."""

    per_answer = "per_answer"
    token_mean = "token_mean"


class OldLogprobs(Enum):
    """Whose logprobs the ratio is taken against."""

    trainer = "trainer"
    sampler = "sampler"


@dataclass(kw_only=True, slots=True)
class GRPOConfig:
    """The objective's constants. R1's own: clip_low = clip_high = 10, kl_coef = 0.001 (R1 §2.2)."""

    clip_low: float = 0.2
    "The ratio is clipped from below at 1 - clip_low."
    clip_high: float = 0.2
    "The ratio is clipped from above at 1 + clip_high; larger than clip_low leaves room for rare tokens (asymmetric)."
    kl_coef: float = 0.0
    "Weight of the k3 KL estimator to the reference policy; 0 keeps no reference."

    def __post_init__(self) -> None:
        for key in ("clip_low", "clip_high"):
            if getattr(self, key) <= 0:
                value = getattr(self, key)
                raise ConfigError(f"rl.objective.{key}", value, "an empty clip range stops all learning", "set 0.2")
        if self.kl_coef < 0:
            raise ConfigError("rl.objective.kl_coef", self.kl_coef, "a negative weight rewards drift", "set 0 or more")


@dataclass(kw_only=True, slots=True)
class RLConfig:
    """One GRPO stage; R1-Zero at full scale: 32 questions x 16 answers, lr 3e-6, kl 0.001, clip 10 (R1 §2.2)."""

    checkpoint: str = ""
    "The model to start from: a run, a checkpoint or a Hugging Face folder."
    steps: int = 64
    "RL steps: rollout, reward, update."
    questions_per_step: int = 16
    "Questions asked in a step."
    group_size: int = 16
    "Answers to each question; the group is its own baseline."
    minibatches: int = 2
    "Optimiser updates in a step, each on a random part of its answers."
    advantage: AdvantageKind = AdvantageKind.group_std
    "group_std (R1 eq. 3), group_mean (without the std) or leave_one_out."
    loss_weighting: LossWeighting = LossWeighting.per_answer
    "per_answer (1/|o|, DSM eq. 3) or token_mean."
    drop_zero_variance: bool = True
    "Leave out groups whose answers all scored the same; with kl_coef > 0 they stay, as their KL has a gradient."
    old_logprobs: OldLogprobs = OldLogprobs.trainer
    "Whose logprobs are the ratio's denominator; sampler saves a forward pass where both run the same modules."
    reference_every: int = 400
    "Steps after which the reference policy is replaced by the present one (R1: 400); read where kl_coef > 0."
    objective: GRPOConfig = field(default_factory=GRPOConfig)
    "Clip range and KL weight."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-4, beta2=0.99, weight_decay=0.0))
    "The optimiser of the policy."
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            warmup=0.0, decay=0.0, mtp_lambda=0.0, mtp_lambda_late=0.0, bias_speed=0.0
        )
    )
    "Learning rate over the stage; MTP and the router's bias rest by default."
    micro_batch_tokens: int = 8192
    "Padded tokens of one forward and backward pass on one rank."
    sample_groups: int = 4
    "Groups of each step whose answers are kept, all of them, for the dashboard."
    rollout_rows: int = 128
    "Answers written at the same time on one rank."
    evaluate_every: int = 10
    "Steps between small evaluations on held-out questions."
    save_every: int = 10
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ConfigError("rl.group_size", self.group_size, "a group needs 2 answers for a mean", "set 8")
        for key in (
            "steps questions_per_step minibatches reference_every evaluate_every save_every "
            "micro_batch_tokens rollout_rows"
        ).split():
            if getattr(self, key) < 1:
                raise ConfigError(f"rl.{key}", getattr(self, key), "nothing would happen", "set at least 1")
        if self.sample_groups < 0:
            raise ConfigError("rl.sample_groups", self.sample_groups, "cannot be negative", "set 0 to keep none")
        answers = self.questions_per_step * self.group_size
        if self.minibatches > answers:
            raise ConfigError(
                "rl.minibatches", self.minibatches, f"a step has {answers} answers", f"set at most {answers}"
            )

    @property
    def drops_zero_variance(self) -> bool:
        """Whether groups without variance are left out of the loss, and of its average."""
        return self.drop_zero_variance and self.objective.kl_coef == 0
