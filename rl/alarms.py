"""When `r1 zero` warns that the sampler and the trainer have come apart, and what to do then.

The levels are where the mismatch laboratory (`python -m experiments.mismatch`, experiments/results/mismatch/) puts
them: well above everything that its exact baseline showed, below what its faults did. A level is not a claim of harm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rl.config import RLConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A metric, the level above which (in size) it is told, and what that means."""

    metric: str
    level: float
    cause: str
    remedy: str
    pooled: bool = False
    "Whether the steps so far are put together, as scores of deviation 1 are: sum over the root of their number."
    expected: Callable[[RLConfig], bool] = lambda cfg: False
    "Whether the settings bring it about, and bring its cure along: then nothing is said."

    def sizes(self, values: Sequence[float]) -> list[float]:
        """What is held against the level after each step, from the metric's values up to there.

        Example, pooled: 2, 2, -1 give 2, 2.83, 1.73; else 2, 2, 1.
        """
        if not self.pooled:
            return [abs(value) for value in values]
        return [abs(total) / math.sqrt(number) for number, total in enumerate(accumulate(values), 1)]

    def line(self, value: float, step: int) -> str:
        """The warning."""
        return f"warning: step {step}: {self.metric}={value:.3g} is above {self.level:g}: {self.cause}; {self.remedy}"


def _corrected(cfg: RLConfig) -> bool:
    """The difference is weighed away, so far as the cap allows."""
    return cfg.importance_cap > 0


ALARMS = (
    Alarm(
        metric="rl/surprisal_z",
        level=5.0,
        pooled=True,
        cause="tokens are not drawn from the distribution whose logprobs the sampler tells (temperature, top-p)",
        remedy="set sampling.temperature=1 sampling.top_p=1, and see that the engine heeds them",
    ),
    Alarm(
        metric="rl/sampler_trainer_far_frac",
        level=1e-3,
        cause="some tokens were read in another context than they were written in (lost tokens, another tokenizer, "
        "another routing), or with much older weights",
        remedy="compare the engine's tokens with the trainer's",
        expected=_corrected,
    ),
    Alarm(
        metric="rl/sampler_trainer_diff",
        level=0.02,
        cause="the sampler's logprobs are of another distribution (temperature), of older weights or of coarser "
        "numbers (FP8)",
        remedy="see that weights are handed over each step, set sampling.temperature=1, or rl.importance_cap=2",
        expected=_corrected,
    ),
    Alarm(
        metric="rl/importance_capped_frac",
        level=0.1,
        cause="so many tokens are at rl.importance_cap that the correction is itself a bias",
        remedy="hand weights over more often (rl.rollout.one_step_off=false, larger rl.rollout.partial_tokens)",
    ),
)


class Watch:
    """Tells each alarm once, at the first step that is above its level."""

    def __init__(self, cfg: RLConfig) -> None:
        self.alarms = [alarm for alarm in ALARMS if not alarm.expected(cfg)]
        self._seen: dict[str, list[float]] = {}

    def lines(self, metrics: dict[str, float], step: int) -> list[str]:
        """The warnings of a step (counted from 1), most often none."""
        said = []
        for alarm in list(self.alarms):
            if alarm.metric not in metrics:
                continue
            seen = self._seen.setdefault(alarm.metric, [])
            seen.append(metrics[alarm.metric])
            size = alarm.sizes(seen)[-1]
            if size > alarm.level:
                said.append(alarm.line(size, step))
                self.alarms.remove(alarm)
        return said
