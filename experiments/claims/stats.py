"""A number for each seed -> mean, 95 % interval, verdict. The rule is one for all claims; nobody writes a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.claims.claim import MIN_SEEDS, Rule
from rl.evaluate_stats import bootstrap_interval

REPRODUCED, REFUTED, OPEN = "reproduced", "not reproduced", "inconclusive"
MANY_SEEDS = 100
"More seeds than this are no plan: a larger scale is."


@dataclass(kw_only=True, slots=True, frozen=True)
class Verdict:
    """What a rule says of its numbers."""

    verdict: str
    "reproduced, not reproduced, inconclusive; empty for a rule without a bound."
    reason: str
    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    "Seeds that the interval is over."


def interval(values: Sequence[float], test: str = "t") -> tuple[float, float, float]:
    """-> (mean, low, high), 95 %, of at least two numbers. Example: 1, 2, 3 by t: 2 +- 4.303 / sqrt(3)."""
    if test == "bootstrap":
        return bootstrap_interval(values)
    from scipy import stats

    numbers = np.asarray(values, dtype=np.float64)
    middle, half = numbers.mean(), 0.0
    spread = numbers.std(ddof=1)
    if spread > 0:
        half = stats.t.ppf(0.975, len(numbers) - 1) * spread / math.sqrt(len(numbers))
    return float(middle), float(middle - half), float(middle + half)


def judge(
    rule: Rule, values: dict[int, float | None], *, fixed: bool = False, test: str = "t", larger: str = ""
) -> Verdict:
    """The verdict over seed -> number; None and what is not finite are numbers that could not be had.

    fixed: nothing in it depends on a seed, so that one number is enough. larger: what scale would tell.
    reproduced: the whole interval clears the bound; not reproduced: the whole interval lies on the other side of it.
    """
    finite = [float(v) for v in values.values() if v is not None and math.isfinite(v)]
    missing = [str(seed) for seed, v in values.items() if v is None or not math.isfinite(v)]
    if fixed and finite:
        middle = low = high = finite[0]
    elif len(finite) > 1:
        middle, low, high = interval(finite, test)
    else:
        middle = low = high = finite[0] if finite else None
    told = dict(mean=middle, low=low, high=high, seeds=len(finite))
    if len(finite) == 1 and not fixed:
        told |= dict(low=None, high=None)
    if not rule.bound:
        return Verdict(verdict="", reason="", **told)
    if missing:
        return Verdict(verdict=OPEN, reason=f"no number in seed {', '.join(missing)}", **told)
    if not finite:
        return Verdict(verdict=OPEN, reason="not run", **told)
    if not fixed and len(finite) < MIN_SEEDS:
        return Verdict(verdict=OPEN, reason=f"{len(finite)} of at least {MIN_SEEDS} seeds were run", **told)
    sides = _clears(rule, low, high)
    if sides is not None:
        where = "" if fixed else f"the interval of {len(finite)} seeds lies "
        said = (
            f"{where}{'' if sides else 'not '}{rule.bound}" if fixed or sides else f"{where}outside: not {rule.bound}"
        )
        return Verdict(verdict=REPRODUCED if sides else REFUTED, reason=said, **told)
    return Verdict(verdict=OPEN, reason=_what_would_tell(rule, middle, high - low, len(finite), larger), **told)


def _clears(rule: Rule, low: float, high: float) -> bool | None:
    """Whether the interval clears the bound; None where it crosses it."""
    if rule.within is not None:
        if -rule.within < low and high < rule.within:
            return True
        return False if low > rule.within or high < -rule.within else None
    if rule.above is not None:
        return True if low > rule.above else False if high <= rule.above else None
    return True if high < rule.below else False if low >= rule.below else None


def _what_would_tell(rule: Rule, middle: float, width: float, seeds: int, larger: str) -> str:
    """How many seeds would bring the interval off the bound, were the mean and the spread to stay."""
    if rule.within is not None:
        away = min(abs(middle - rule.within), abs(middle + rule.within))
    else:
        away = abs(middle - (rule.above if rule.above is not None else rule.below))
    needed = math.ceil(seeds * (width / 2 / away) ** 2) + 1 if away > 0 else MANY_SEEDS + 1
    said = f"the interval crosses the bound ({rule.bound})"
    if needed <= MANY_SEEDS:
        return f"{said}; about {needed} seeds would tell"
    return f"{said}; " + (larger or "more seeds would hardly tell, a larger scale might")
