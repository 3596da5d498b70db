"""The settings of the objectives (DSM §4.1, §5.2.1; Kimi k1.5 §2.3.2) and of PPO's value model; without torch."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from training.config import OptimizerConfig


class ObjectiveName(Enum):
    """What is minimised over the answers of a step, a file each in rl/objectives."""

    grpo = "grpo"
    ppo = "ppo"
    rloo = "rloo"
    reinforce = "reinforce"
    mirror_descent = "mirror_descent"

    @property
    def weighs_answers(self) -> bool:
        """Whether it weighs whole answers by their probability, and not token by token."""
        return self in (ObjectiveName.rloo, ObjectiveName.reinforce, ObjectiveName.mirror_descent)

    @property
    def compares_in_group(self) -> bool:
        """Whether an answer is judged against the other answers to its question."""
        return self not in (ObjectiveName.ppo, ObjectiveName.reinforce)


class AdvantageKind(Enum):
    """Which baseline and which scale an answer's reward gets (rl/advantages.py)."""

    auto = "auto"
    group_std = "group_std"
    group_mean = "group_mean"
    leave_one_out = "leave_one_out"
    batch_mean = "batch_mean"
    log_partition = "log_partition"


_OWN_ADVANTAGE = {
    ObjectiveName.grpo: AdvantageKind.group_std,
    ObjectiveName.ppo: AdvantageKind.group_mean,  # told beside the answers only: PPO learns from GAE
    ObjectiveName.rloo: AdvantageKind.leave_one_out,
    ObjectiveName.reinforce: AdvantageKind.batch_mean,
    ObjectiveName.mirror_descent: AdvantageKind.group_mean,
}


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig:
    """The objective and its constants. R1's own: clip_low = clip_high = 10, kl_coef = 0.001 (R1 §2.2)."""

    name: ObjectiveName = ObjectiveName.grpo
    "grpo, ppo (with a value model), rloo, reinforce, or mirror_descent (Kimi k1.5; a fresh optimiser every step)."
    clip_low: float = 0.2
    "The ratio is clipped from below at 1 - clip_low; of tokens in grpo and ppo, of whole answers in rloo."
    clip_high: float = 0.2
    "The ratio is clipped from above at 1 + clip_high; larger than clip_low leaves room for rare tokens (asymmetric)."
    kl_coef: float = 0.0
    "Weight of the KL to the reference policy, in the loss by the k3 estimator; 0 keeps no reference."
    kl_in_reward: bool = False
    "Take kl_coef * log(p / p_ref) off each token's reward instead (InstructGPT; DSM eq. 2); ppo only."
    tau: float = 1.0
    "mirror_descent: weight of the squared log-ratio to the policy that the step began with."

    def __post_init__(self) -> None:
        for key in ("clip_low", "clip_high"):
            if getattr(self, key) <= 0:
                value = getattr(self, key)
                raise ConfigError(f"rl.objective.{key}", value, "an empty clip range stops all learning", "set 0.2")
        if self.kl_coef < 0:
            raise ConfigError("rl.objective.kl_coef", self.kl_coef, "a negative weight rewards drift", "set 0 or more")
        if self.tau <= 0:
            raise ConfigError("rl.objective.tau", self.tau, "nothing would hold the policy", "set it above 0")
        if self.kl_in_reward and self.name is not ObjectiveName.ppo:
            raise ConfigError(
                "rl.objective.kl_in_reward",
                "true",
                f"{self.name.name} has one reward an answer, not one a token",
                "set rl.objective.kl_in_reward=false, or rl.objective.name=ppo",
            )
        if self.kl_coef > 0 and self.name is ObjectiveName.mirror_descent:
            raise ConfigError(
                "rl.objective.kl_coef",
                self.kl_coef,
                "mirror_descent is held by rl.objective.tau to the step's first policy, and knows no other reference",
                "set rl.objective.kl_coef=0",
            )

    @property
    def own_advantage(self) -> AdvantageKind:
        """The baseline that the objective's paper has."""
        return _OWN_ADVANTAGE[self.name]


@dataclass(kw_only=True, slots=True)
class PPOConfig:
    """PPO's value model and its advantages (Schulman et al. 2016, 2017; InstructGPT §3.5); read by ppo alone."""

    gamma: float = 1.0
    "Discount of a later token's reward."
    gae_lambda: float = 1.0
    "GAE's trade of bias for variance: 1 takes what was earned, 0 the value of the next token alone."
    clip_value: float = 0.2
    "A token's value may move this far from what it was when the step began, before its loss stands still."
    whiten: bool = True
    "Bring the step's advantages to mean 0 and standard deviation 1, over all tokens."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, beta2=0.99, weight_decay=0.0))
    "The optimiser of the value model; its learning rate follows rl.schedule, too."

    def __post_init__(self) -> None:
        for key in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"rl.ppo.{key}", getattr(self, key), "is a decay", "set it from 0 to 1")
        if self.clip_value <= 0:
            raise ConfigError("rl.ppo.clip_value", self.clip_value, "the value model would never learn", "set 0.2")
