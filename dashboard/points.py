"""Metrics -> the points of a chart: smoothed, joined over seeds, thinned so that no peak is lost. Pure."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

FEW = 40
"A series of so few points, such as evaluations, is drawn as measured: with its points, not smoothed."
CHART_POINTS = 600
"Points of one chart that are sent to the browser, shared by its lines; more are thinned, peaks kept."
MOST, LEAST = 400, 60
"Of one line."
HOVERED = 240
"Points of one chart that tell their values under the pointer, shared by its lines: one in a few pixels of each."
AXES = {"step": "step", "tokens": "tokens seen", "clock": "hours since the first step"}
COLUMNS = ["run", "series", "x", "step", "value", "smooth", "few", "hover"]
BAND_COLUMNS = ["run", "series", "x", "low", "value", "high", "n", "few", "hover"]
"n: how many were measured there, seeds or answers."


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart of metrics against steps, tokens or time."""

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    "(metric, its name in the legend)."
    zero: bool = True
    "Whether the y axis has to show 0."

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it draws."""
        return tuple(metric for metric, _ in self.series)


def along(frame: pd.DataFrame, x: str) -> np.ndarray:
    """The x values of a run's rows, one of AXES."""
    if x != "clock":
        return frame[x].to_numpy()
    time = frame["time"].to_numpy()
    return (time - np.nanmin(time)) / 3600 if np.isfinite(time).any() else time


def points(
    frames: dict[str, pd.DataFrame], figure: Figure, x: str, window: int = 1, *, whole: bool = False
) -> pd.DataFrame:
    """Rows COLUMNS; in the order of `frames` and figure.series, missing values left out.

    smooth: mean of the last `window` values of the series up to the row; few: whether the series has up to FEW points;
    hover: whether the point tells its values.
    whole: all of them, for a file; else thinned.
    """
    lines = [(run, *series) for run, frame in frames.items() for series in figure.series if series[0] in frame]
    limit = per_line(len(lines))
    parts = []
    for run, metric, label in lines:
        part = pd.DataFrame(_line(frames[run], metric, x, window))
        few = len(part) <= FEW
        if not whole:
            part = part.iloc[thinned(part["value"].to_numpy(), limit)]
        if len(part):
            parts.append(part.assign(run=run, series=label, few=few, hover=hovered(len(part), len(lines))))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _line(frame: pd.DataFrame, metric: str, x: str, window: int) -> dict[str, np.ndarray]:
    """Columns x, step, value, smooth of what was logged."""
    values, at = frame[metric].to_numpy(), along(frame, x)
    there = ~np.isnan(values) & ~np.isnan(at)
    values, at, steps = values[there], at[there], frame["step"].to_numpy()[there]
    smooth = values if len(values) <= FEW or window == 1 else moving_mean(values, window)
    return {"x": at, "step": steps, "value": values, "smooth": smooth}


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values up to each: moving_mean([1, 2, 6], 2) is [1, 1.5, 4]."""
    return pd.Series(values).rolling(window, min_periods=1).mean().to_numpy()


def per_line(lines: int) -> int:
    """How many points each of so many lines may have."""
    return max(LEAST, min(MOST, CHART_POINTS // max(lines, 1)))


def hovered(count: int, lines: int) -> np.ndarray:
    """Which of the points of a line, one of so many in a chart, tell their values: all where there are few."""
    if count <= FEW:
        return np.full(count, True)
    shown = np.full(count, False)
    shown[np.linspace(0, count - 1, min(count, max(FEW, HOVERED // lines))).round().astype(int)] = True
    return shown


def thinned(values: np.ndarray, limit: int = MOST) -> np.ndarray:
    """Positions of at most `limit` values: the lowest and the highest of equal stretches and both ends, in order."""
    if len(values) <= limit:
        return np.arange(len(values))
    stretches = limit // 2 - 1
    size = -(-len(values) // stretches)
    padded = np.full(-(-len(values) // size) * size, np.nan)
    padded[: len(values)] = values
    table = padded.reshape(-1, size)
    first = np.arange(len(table)) * size
    low, high = np.where(np.isnan(table), np.inf, table), np.where(np.isnan(table), -np.inf, table)
    return np.unique([0, len(values) - 1, *(first + low.argmin(axis=1)), *(first + high.argmax(axis=1))])


def bands(
    frames: dict[str, pd.DataFrame], groups: dict[str, list[str]], figure: Figure, x: str, window: int = 1
) -> pd.DataFrame:
    """Rows BAND_COLUMNS: over the seeds of each group, the mean and the lowest and highest smoothed value.

    groups: name -> keys in `frames`. Seeds that logged at the same places are compared there, others in equal
    stretches of x; so are long runs, whose lowest and highest are those within the stretch.
    """
    lines = len(groups) * len(figure.series)
    limit = per_line(2 * lines) // 2
    parts = []
    for name, keys in groups.items():
        for metric, label in figure.series:
            seeds = [_line(frames[key], metric, x, window) for key in keys if metric in frames[key]]
            seeds = [(seed["x"], seed["smooth"]) for seed in seeds if len(seed["x"])]
            if seeds:
                part = _band(seeds, limit)
                shown = hovered(len(part), lines)
                parts.append(part.assign(run=name, series=label, few=len(part) <= FEW, hover=shown))
    return pd.concat(parts, ignore_index=True)[BAND_COLUMNS] if parts else pd.DataFrame(columns=BAND_COLUMNS)


def _band(seeds: list[tuple[np.ndarray, np.ndarray]], limit: int) -> pd.DataFrame:
    places = np.unique(np.concatenate([at for at, _ in seeds]))
    longest = max(len(at) for at, _ in seeds)
    if len(places) > limit or len(places) > longest:
        start, end = places[0], places[-1]
        edges = np.linspace(start, end, min(limit, longest) + 1)
        places = (edges[:-1] + edges[1:]) / 2
        where = [np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(places) - 1) for at, _ in seeds]
    else:
        where = [np.searchsorted(places, at) for at, _ in seeds]
    mean, low, high = (np.full((len(seeds), len(places)), fill) for fill in (np.nan, np.inf, -np.inf))
    for i, ((_, values), place) in enumerate(zip(seeds, where, strict=True)):
        count = np.bincount(place, minlength=len(places))
        there = count > 0
        mean[i, there] = np.bincount(place, values, minlength=len(places))[there] / count[there]
        np.minimum.at(low[i], place, values)
        np.maximum.at(high[i], place, values)
    logged = ~np.isnan(mean)
    some = logged.any(axis=0)
    total = np.where(logged, mean, 0.0).sum(axis=0)[some] / logged.sum(axis=0)[some]
    ends = {"low": low.min(axis=0)[some], "high": high.max(axis=0)[some]}
    return pd.DataFrame({"x": places[some], "value": total, **ends, "n": logged.sum(axis=0)[some]})


def with_ends(data: pd.DataFrame, frames: dict[str, pd.DataFrame], figure: Figure, x: str) -> pd.DataFrame:
    """`points` of measurements, with low and high of their 95 % intervals (metrics <metric>_low and <metric>_high)."""
    for end in ("low", "high"):
        ends = Figure(figure.title, figure.unit, tuple((f"{metric}_{end}", label) for metric, label in figure.series))
        found = points(frames, ends, x, whole=True)[["run", "series", "step", "value"]].rename(columns={"value": end})
        data = data.merge(found, on=["run", "series", "step"], how="left")
    return data.astype({"low": float, "high": float})


def held_out(names: list[str], kind: str) -> tuple[tuple[str, str], ...]:
    """(metric, legend) of eval/<task>/<kind>; kind: a regular expression such as pass_at_1 or majority_at_\\d+."""
    matches = [m for name in sorted(set(names)) if (m := re.fullmatch(rf"eval/(.+)/({kind})", name))]
    tasks = {m[1] for m in matches}
    return tuple((m[0], m[2].replace("_at_", "@") + (f", {m[1]}" if len(tasks) > 1 else "")) for m in matches)


def latest(frame: pd.DataFrame, metric: str) -> float | None:
    """The last value logged; None where there is none."""
    values = frame[metric].dropna() if metric in frame else []
    return float(values.iloc[-1]) if len(values) else None


def first_and_last(frame: pd.DataFrame, metric: str, window: int = 5) -> tuple[float, float] | None:
    """Means of the first and of the last `window` values; None where the two would overlap."""
    values = frame[metric].dropna() if metric in frame else []
    if len(values) < 2 * window:
        return None
    return float(values.iloc[:window].mean()), float(values.iloc[-window:].mean())
