"""Learning rate, MTP weight and bias speed: pure functions of how far the stage is (V3 §4.2)."""

import math
from dataclasses import dataclass
from enum import Enum

from infra.errors import ConfigError


class Decay(Enum):
    """The shape of the last part of the learning rate."""

    linear = "linear"
    cosine = "cosine"


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """What changes over a stage. Parts of a stage are fractions of its length, in tokens (or steps, in RL)."""

    warmup: float = 0.03
    """Part of the stage over which the learning rate rises from 0, linearly."""
    decay: float = 0.5
    """Last part of the stage, over which the learning rate falls; 0 keeps it constant."""
    decay_shape: Decay = Decay.linear
    """linear or cosine (V3)."""
    final_ratio: float = 0.0
    """Learning rate at the end over the peak (V3: 0.1, then lower)."""
    mtp_lambda: float = 0.3
    """Weight of the MTP loss; 0 leaves MTP out (V3: 0.3, later 0.1)."""
    mtp_lambda_late: float = 0.1
    """The same in the late part of the stage."""
    mtp_late: float = 0.32
    """The late part for mtp_lambda_late (V3: 4.8T of 14.8T tokens)."""
    mtp_share: float = 1.0
    """Share of the steps that compute MTP at all; the others cost a third less."""
    bias_speed: float = 1e-3
    """Step of the router's balancing bias; 0 holds it still."""
    bias_still: float = 0.034
    """Last part of the stage with the bias held still (V3: 500B of 14.8T tokens)."""

    def __post_init__(self) -> None:
        for key in ("warmup", "decay", "mtp_late", "mtp_share", "bias_still", "final_ratio"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"schedule.{key}", getattr(self, key), "is a fraction", "set it from 0 to 1")
        for key in ("mtp_lambda", "mtp_lambda_late", "bias_speed"):
            if getattr(self, key) < 0:
                raise ConfigError(f"schedule.{key}", getattr(self, key), "cannot be negative", "set 0 for none")
        if self.warmup + self.decay > 1:
            raise ConfigError(
                "schedule.warmup", self.warmup, f"overlaps schedule.decay={self.decay}", "let them sum to 1 at most"
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class Now:
    """The values of one step."""

    lr_scale: float = 1.0
    """Factor on the peak learning rates."""
    mtp_lambda: float = 0.0
    """Weight of the MTP loss; 0: MTP is not computed and its weights stay."""
    bias_speed: float = 0.0
    """Step of the router's balancing bias."""


@dataclass(slots=True)
class Schedule:
    """cfg over a stage of `total` tokens (or steps). Example: warmup=0.1, total=1000: at(50).lr_scale == 0.5."""

    cfg: ScheduleConfig
    total: float

    def at(self, position: float, step: int | None = None) -> Now:
        """The values at `position` (0 to total, in the unit of total), in the step of that number.

        step decides which steps compute MTP; it is the position where that counts steps.
        """
        cfg, done = self.cfg, min(position / self.total, 1.0)
        mtp_lambda = cfg.mtp_lambda if done < 1 - cfg.mtp_late else cfg.mtp_lambda_late
        if not _is_chosen(int(position) if step is None else step, cfg.mtp_share):
            mtp_lambda = 0.0
        return Now(
            lr_scale=_lr_scale(cfg, done),
            mtp_lambda=mtp_lambda,
            bias_speed=cfg.bias_speed if done < 1 - cfg.bias_still else 0.0,
        )


def _lr_scale(cfg: ScheduleConfig, done: float) -> float:
    if done < cfg.warmup:
        return done / cfg.warmup
    if done <= 1 - cfg.decay:
        return 1.0
    left = (1 - done) / cfg.decay
    if cfg.decay_shape is Decay.cosine:
        left = (1 - math.cos(math.pi * left)) / 2
    return cfg.final_ratio + (1 - cfg.final_ratio) * left


def _is_chosen(step: int, share: float) -> bool:
    """Whether the step is among an even share of all. Share 1/3: steps 2, 5, 8, ..."""
    return math.floor((step + 1) * share) > math.floor(step * share)
