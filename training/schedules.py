"""Learning rate, batch size, MTP weight and bias speed: pure functions of how far the stage is (V3 §4.2).

A schedule is a list of points, with how to get from each to the next. Most stages do with a few fractions of their
length instead (warm-up, decay, a late part), from which such lists are made here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError


class Decay(Enum):
    """The shape of the last part of the learning rate."""

    linear = "linear"
    cosine = "cosine"


class By(Enum):
    """How a value goes from the point before to this one: in a straight line, along half a cosine, or at once."""

    linear = "linear"
    cosine = "cosine"
    jump = "jump"


@dataclass(kw_only=True, slots=True)
class Point:
    """A value at a place of the stage. Example: {at: 10e12, value: 0.1, by: jump}."""

    at: float = 0.0
    """Tokens trained on (steps, in RL)."""
    value: float = 0.0
    """The value there."""
    by: By = By.linear
    """How it gets there from the point before: linear, cosine or jump (the value before holds until here)."""

    def __post_init__(self) -> None:
        if self.at < 0 or self.value < 0:
            key = "at" if self.at < 0 else "value"
            raise ConfigError(f"point.{key}", getattr(self, key), "cannot be negative", "set 0 or more")


def value_at(points: Sequence[Point], position: float) -> float:
    """The value at `position`; before the first point its value, after the last point that one's.

    Example: points (0, 0.2), (100, 1.0) give 0.6 at 50 and 1.0 at 200.
    """
    before = points[0]
    for point in points:
        if position < point.at:
            done = (position - before.at) / (point.at - before.at) if point.at > before.at else 0.0
            if point is points[0] or point.by is By.jump:
                return before.value
            if point.by is By.cosine:
                done = (1 - math.cos(math.pi * done)) / 2
            return before.value + (point.value - before.value) * done
        before = point
    return before.value


def check_points(key: str, points: Sequence[Point]) -> None:
    """Raise ConfigError, naming the setting `key`, for points that do not come one after the other."""
    for before, point in zip(points, points[1:], strict=False):
        if point.at <= before.at:
            raise ConfigError(key, f"{point.at:g}", f"comes after the point at {before.at:g}", "put points in order")


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
    lr_points: list[Point] = field(default_factory=list)
    """Learning rate over the peak, by tokens: [{at: 0, value: 0}, {at: 28e9, value: 1}, ...]; instead of the above."""
    mtp_points: list[Point] = field(default_factory=list)
    """Weight of the MTP loss by tokens, instead of mtp_lambda and mtp_late: [{at: 0, value: 0.3}, ...]."""
    bias_points: list[Point] = field(default_factory=list)
    """Step of the router's bias by tokens, instead of bias_speed and bias_still: [{at: 0, value: 0.001}, ...]."""

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
        for key in ("lr_points", "mtp_points", "bias_points"):
            check_points(f"schedule.{key}", getattr(self, key))


@dataclass(kw_only=True, slots=True, frozen=True)
class Now:
    """The values of one step."""

    lr_scale: float = 1.0
    """Factor on the peak learning rates."""
    mtp_lambda: float = 0.0
    """Weight of the MTP loss; 0: MTP is not computed and its weights stay."""
    bias_speed: float = 0.0
    """Step of the router's balancing bias."""


class Schedule:
    """cfg over a stage of `total` tokens (or steps). Example: warmup=0.1, total=1000: at(50).lr_scale == 0.5."""

    def __init__(self, cfg: ScheduleConfig, total: float) -> None:
        self.cfg, self.total = cfg, total
        self.lr = cfg.lr_points or _rise_and_fall(cfg, total)
        self.mtp = cfg.mtp_points or _late(cfg.mtp_lambda, cfg.mtp_lambda_late, (1 - cfg.mtp_late) * total)
        self.bias = cfg.bias_points or _late(cfg.bias_speed, 0.0, (1 - cfg.bias_still) * total)

    def at(self, position: float, step: int | None = None) -> Now:
        """The values at `position` (0 to total, in the unit of total), in the step of that number.

        step decides which steps compute MTP; it is the position where that counts steps.
        """
        chosen = _is_chosen(int(position) if step is None else step, self.cfg.mtp_share)
        return Now(
            lr_scale=value_at(self.lr, position),
            mtp_lambda=value_at(self.mtp, position) if chosen else 0.0,
            bias_speed=value_at(self.bias, position),
        )


def _rise_and_fall(cfg: ScheduleConfig, total: float) -> list[Point]:
    """Warm-up, then constant, then the decay to the stage's end."""
    points = [Point(at=0.0, value=0.0), Point(at=cfg.warmup * total, value=1.0)][0 if cfg.warmup else 1 :]
    if cfg.decay:
        points += [Point(at=(1 - cfg.decay) * total, value=1.0)]
        points += [Point(at=total, value=cfg.final_ratio, by=By[cfg.decay_shape.name])]
    return points


def _late(value: float, late: float, start: float) -> list[Point]:
    """One value, and from `start` on another."""
    return [Point(at=0.0, value=value), Point(at=start, value=late, by=By.jump)]


def _is_chosen(step: int, share: float) -> bool:
    """Whether the step is among an even share of all. Share 1/3: steps 2, 5, 8, ..."""
    return math.floor((step + 1) * share) > math.floor(step * share)
