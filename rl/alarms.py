"""When `r1 zero` warns that the sampler and the trainer have come apart, and what to do then.

The levels are where the mismatch laboratory (`python -m experiments.mismatch`, LOG.md) puts them: well
above what its exact baseline showed, below what its faults did. A level is not a claim of harm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rl.config import EngineName, RLConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What an alarm has to know of a run."""

    cfg: RLConfig
    full_precision: bool
    "Whether the trainer is FP32 without FP8 products."

    @property
    def exact(self) -> bool:
        """Whether the sampler is the trainer's own network in the same numbers, so that rounding alone is left."""
        rollout = self.cfg.rollout
        return self.full_precision and rollout.engine is EngineName.local and not rollout.older_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A metric, the level above which (in size) it is told, and what that means."""

    name: str
    metric: str
    level: float
    cause: str
    remedy: str
    pooled: bool = False
    "Whether the steps so far are put together, as scores of deviation 1 are: sum over the root of their number."
    on: Callable[[Run], bool] = lambda run: True
    "In which runs it is news."

    def sizes(self, values: Sequence[float]) -> list[float]:
        """What is held against the level after each step, from the metric's values up to there.

        Example, pooled: 2, 2, -1 give 2, 2.83, 1.73; else 2, 2, 1.
        """
        if not self.pooled:
            return [abs(value) for value in values]
        return [abs(total) / math.sqrt(number) for number, total in enumerate(accumulate(values), 1)]

    def line(self, size: float, step: int) -> str:
        """The warning."""
        return f"warning: step {step}: {self.metric}={size:.3g} is above {self.level:g}: {self.cause}; {self.remedy}"


ALARMS = (
    Alarm(
        name="surprise",
        metric="rl/surprisal_z",
        level=5.0,
        pooled=True,
        cause="tokens are not drawn from the distribution whose logprobs the sampler tells (temperature, top-p)",
        remedy="set sampling.temperature=1 sampling.top_p=1, and see that the engine heeds them",
    ),
    Alarm(
        name="inexact",
        metric="rl/sampler_trainer_diff",
        level=2e-4,
        cause="sampler and trainer are to be one network in FP32, and are not (coarser numbers, other experts chosen, "
        "older weights, another temperature)",
        remedy="set sampling.temperature=1 sampling.top_p=1; else it is a bug worth reporting",
        on=lambda run: run.exact,
    ),
    Alarm(
        name="apart",
        metric="rl/sampler_trainer_diff",
        level=0.01,
        cause="more than BF16 or FP8 explain: the sampler's weights are older, or it draws at another temperature",
        remedy="see that weights are handed over each step, set sampling.temperature=1, or rl.importance_cap=2",
        on=lambda run: not run.cfg.importance_cap,
    ),
    Alarm(
        name="far",
        metric="rl/sampler_trainer_far_frac",
        level=0.01,
        cause="tokens were read in another context than they were written in (one is lost, another tokenizer), or "
        "the weights are much older",
        remedy="compare the engine's tokens and its weights' version with the trainer's",
    ),
    Alarm(
        name="capped",
        metric="rl/importance_capped_frac",
        level=0.1,
        cause="so many tokens are at rl.importance_cap that the correction is itself a bias",
        remedy="hand weights over more often (rl.rollout.one_step_off=false, larger rl.rollout.partial_tokens)",
    ),
)


class Watch:
    """Tells each alarm once, at the first step that is above its level."""

    def __init__(self, cfg: RLConfig, *, full_precision: bool) -> None:
        run = Run(cfg=cfg, full_precision=full_precision)
        self.alarms = [alarm for alarm in ALARMS if alarm.on(run)]
        self._seen: dict[str, list[float]] = {}

    def lines(self, metrics: dict[str, float], step: int) -> list[str]:
        """The warnings of a step (counted from 1), most often none."""
        said = []
        for alarm in list(self.alarms):
            if alarm.metric not in metrics:
                continue
            seen = self._seen.setdefault(alarm.name, [])
            seen.append(metrics[alarm.metric])
            size = alarm.sizes(seen)[-1]
            if size > alarm.level:
                said.append(alarm.line(size, step))
                self.alarms.remove(alarm)
        return said
