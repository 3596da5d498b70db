"""How long answers are, from the runs' own samples: through training, by result, and against being right."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import sample_files, store
from dashboard.points import BAND_COLUMNS, FEW
from dashboard.sample_files import OUTCOMES, Unreadable

STEPS = 150
"Steps of a run whose answers are read; of more, so many evenly spread, the first and the last among them."
BINS = 8
LENGTHS = {"response": "response_tokens", "thinking": "thinking_tokens"}
ALL = "all answers"


def answers(files: dict[int, Path]) -> tuple[pd.DataFrame, list[str]]:
    """step, response_tokens, thinking_tokens, outcome of the steps that are read; what could not be."""
    steps = list(files)
    if len(steps) > STEPS:
        steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))]
    parts, problems = [], []
    for step in steps:
        try:
            parts.append(sample_files.measured(files[step]).assign(step=step))
        except Unreadable as error:
            problems.append(str(error))
    columns = ["step", *LENGTHS.values(), "outcome"]
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)), problems


def through_training(found: pd.DataFrame, run: str, length: str, *, split: bool) -> pd.DataFrame:
    """Rows BAND_COLUMNS by step: median, tenth and ninetieth percentile; split: a series for each result."""
    column = LENGTHS[length]
    found = found[found[column].notna()]
    if split:
        found = found[found["outcome"].notna()]
    if found.empty:
        return pd.DataFrame(columns=BAND_COLUMNS)
    series = found["outcome"] if split else pd.Series(ALL, index=found.index)
    grouped = found.groupby([series.rename("series"), found["step"].rename("x")], sort=True)[column]
    table = grouped.quantile([0.1, 0.5, 0.9]).unstack().set_axis(["low", "value", "high"], axis=1)
    table = table.assign(n=grouped.size()).reset_index()
    few = table.groupby("series")["x"].transform("size") <= FEW
    return table.assign(run=run, few=few, hover=True)[BAND_COLUMNS]  # of STEPS at most


def accuracy_by_length(found: pd.DataFrame, run: str, length: str) -> pd.DataFrame:
    """Share of right answers in bins of equal size, with its 95 % Wilson interval; x: the bin's mean length."""
    judged = found[found["outcome"].notna() & found[LENGTHS[length]].notna()]
    if len(judged) < 2 * BINS:
        return pd.DataFrame(columns=["run", "series", "x", "value", "low", "high", "n"])
    rank = judged[LENGTHS[length]].rank(method="average")  # equal lengths stay together
    bins = np.minimum((rank / (len(judged) + 1) * BINS).astype(int), BINS - 1)
    right = judged["outcome"] == OUTCOMES[0]
    rows = []
    for _, index in judged.groupby(bins).groups.items():
        n, share = len(index), right[index].mean()
        low, high = wilson(share, n)
        mean = judged.loc[index, LENGTHS[length]].mean()
        rows.append(dict(run=run, series="accuracy", x=mean, value=share, low=low, high=high, n=n))
    return pd.DataFrame(rows)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of n: wilson(0.5, 100) is about (0.404, 0.596)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def budget_of(path: Path, run: str) -> pd.DataFrame:
    """Rows run, series, x, value, low, high, n of a budget.json; x: tokens, "own length" where nothing is cut.

    Unreadable when it is not what `r1 evaluate evaluate.budget=...` writes.
    """
    try:
        record = json.loads(path.read_bytes())
        rows = [_point(run, "thinking cut", point["budget"], point) for point in record["points"]]
        free = record["free"]
        rows.append(_point(run, "own length, mean", free["thinking_tokens"], free))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{path.parent.name}/{path.name} can't be read: half-written or damaged.") from error
    return pd.DataFrame(rows)


def _point(run: str, series: str, tokens: float, scores: dict) -> dict:
    value = scores["pass_at_1"]
    answers = int(scores["questions"]) * int(scores["samples"])
    place = dict(run=run, series=series, x=float(tokens), n=answers)
    return place | {name: float(value[key]) for name, key in (("value", "mean"), ("low", "low"), ("high", "high"))}


_CHECKPOINT = re.compile(r"^evaluate:\n(?:  .*\n)*?  checkpoint: ['\"]?([^'\"\n]+)", re.MULTILINE)


def budgets() -> list[tuple[Path, Path | None]]:
    """(budget.json, the checkpoint that was asked) of each evaluation in the store; links are not followed."""
    return _budgets(str(store.root()))


@st.cache_resource(ttl=5.0, show_spinner=False, max_entries=4)
def _budgets(root: str) -> list[tuple[Path, Path | None]]:
    found = store.folders_with(Path(root), {"budget.json"})
    return [(folder / "budget.json", _asked(folder / "config.yaml", Path(root))) for folder in found]


def _asked(config: Path, root: Path) -> Path | None:
    try:
        text = store.inside(config, root).read_text(errors="replace")
    except OSError:
        return None
    match = _CHECKPOINT.search(text)
    return Path(match[1].strip()).resolve() if match else None
