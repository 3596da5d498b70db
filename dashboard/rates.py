"""How often the rules of rl/aha.py are met, with intervals, step by step. Each file is judged once."""

import random
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import store
from rl.aha import RULES, judge
from rl.evaluate_stats import bootstrap_ratio

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of some answers meet a rule; the interval resamples questions, whose answers hang together."""

    found: int
    of: int
    right: int
    "Of those found, how many ended right."
    low: float
    high: float

    @property
    def share(self) -> float:
        """Found of all."""
        return self.found / self.of

    @property
    def right_share(self) -> float | None:
        """Right of those found; None where none was."""
        return self.right / self.found if self.found else None


def judged(path: Path) -> pd.DataFrame:
    """A file's answers: row, question_id, right and RULES, all flags. Raises store.Unreadable."""
    try:
        stat = path.stat()
    except OSError as error:
        raise store.Unreadable(f"{path.name} can't be read: {error.strerror}.") from error
    return _judged(path, str(path), stat.st_mtime_ns, stat.st_size)


@st.cache_data(show_spinner=False, max_entries=2_000)
def _judged(_path: Path, path: str, modified_ns: int, size: int) -> pd.DataFrame:
    answers = store.samples(_path)
    right = answers["reward_accuracy"] == 1.0 if "reward_accuracy" in answers else pd.Series(False, answers.index)
    found = [judge(text or "", bool(ok)) for text, ok in zip(answers["text"], right, strict=True)]
    frame = pd.DataFrame({rule: [getattr(aha, rule) for aha in found] for rule in RULES}, dtype=bool)
    return frame.assign(row=range(len(answers)), question_id=answers["question_id"].fillna("-"), right=right)


def rate(answers: pd.DataFrame, rule: str) -> Rate | None:
    """Of the answers of `judged`; None of none."""
    if answers.empty:
        return None
    by_question = answers.groupby("question_id")[rule].agg(["sum", "count"])
    _, low, high = bootstrap_ratio(by_question["sum"], by_question["count"], resamples=RESAMPLES)
    met = answers[answers[rule]]
    return Rate(len(met), len(answers), int(met["right"].sum()), low, high)


def through_training(files: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """step -> answers of `judged`, as rows step, rule, value, low, high, found, of, right_share."""
    rows = []
    for step, answers in files.items():
        for rule in RULES:
            one = rate(answers, rule)
            if one:
                rows.append(
                    {
                        "step": step,
                        "rule": rule,
                        "value": one.share,
                        "low": one.low,
                        "high": one.high,
                        "found": one.found,
                        "of": one.of,
                        "right_share": one.right_share,
                    }
                )
    return pd.DataFrame(rows)


def compared(now: Rate, base: Rate) -> str:
    """In words; two intervals that touch tell nothing apart."""
    if now.low > base.high:
        return "more often than the start"
    if now.high < base.low:
        return "more seldom than the start"
    return "not told apart from the start"


def told(one: Rate | None) -> str:
    """A rate with its interval and its counts; "-" where nothing was judged."""
    return "-" if one is None else f"{one.share:.1%} [{one.low:.1%}, {one.high:.1%}], {one.found} of {one.of}"


def drawn(files: dict[int, pd.DataFrame], rule: str, count: int, seed: int) -> tuple[list[tuple[int, int]], int]:
    """((step, row) of `count` of the answers that meet the rule, drawn by chance; how many there are)."""
    candidates = [
        (step, int(row)) for step, answers in sorted(files.items()) for row in answers.loc[answers[rule], "row"]
    ]
    return random.Random(seed).sample(candidates, min(count, len(candidates))), len(candidates)
