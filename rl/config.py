"""The settings of a GRPO stage (R1 §2.2; DSM §4.1)."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from rl.advantages import AdvantageKind
from rl.batch import LossWeighting
from rl.objectives.grpo import GRPOConfig
from training.optimizer import OptimizerConfig
from training.schedules import ScheduleConfig


class OldLogprobs(Enum):
    """Whose logprobs the ratio is taken against."""

    trainer = "trainer"
    sampler = "sampler"


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
    "Leave out groups whose answers all scored the same: they carry no gradient."
    old_logprobs: OldLogprobs = OldLogprobs.trainer
    "Whose logprobs are the ratio's denominator; sampler saves a forward pass where both run the same modules."
    reference_every: int = 400
    "Steps after which the reference policy is replaced by the present one (R1: 400); read where kl_coef > 0."
    objective: GRPOConfig = field(default_factory=GRPOConfig)
    "Clip range and KL weight."
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    "The optimiser of the policy."
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    "Learning rate over the stage."
    micro_batch_tokens: int = 8192
    "Padded tokens of one forward and backward pass on one rank."
    rollout_rows: int = 128
    "Answers written at the same time on one rank."
    evaluate_every: int = 10
    "Steps between small evaluations on held-out questions."
    save_every: int = 10
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ConfigError("rl.group_size", self.group_size, "a group needs 2 answers for a mean", "set 8")
        for key in ("steps", "questions_per_step", "minibatches", "reference_every", "evaluate_every", "save_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"rl.{key}", getattr(self, key), "nothing would happen", "set at least 1")
        answers = self.questions_per_step * self.group_size
        if self.minibatches > answers:
            raise ConfigError(
                "rl.minibatches", self.minibatches, f"a step has {answers} answers", f"set at most {answers}"
            )
