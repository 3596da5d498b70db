"""DataFrames -> charts. Pure: no reads, no Streamlit. Altair writes a figure's Vega-Lite once; data comes beside it."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

# Okabe-Ito, told apart by colour-blind readers; black and yellow left out, as each of them is lost on one theme.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
FEW = 40
"A series of so few points, such as evaluations, is drawn as measured: with its points, not smoothed."
MAX_POINTS = 1500
"Points of one line that are sent to the browser; more are thinned, peaks kept."
HEIGHT = 320
"Pixels, title and legend included."
AXES = {"step": "step", "tokens": "tokens seen"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart of metrics against steps or tokens."""

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


@dataclass(frozen=True, slots=True)
class Chart:
    """Rows to draw, and the Vega-Lite that draws them."""

    data: pd.DataFrame
    spec: dict


def curves(frames: dict[str, pd.DataFrame], figure: Figure, *, x: str = "step", window: int = 1) -> Chart | None:
    """Raw values pale behind their moving mean; None where no run has a value. Several runs: colour is the run."""
    data = points(frames, figure, x, window)
    return None if data.empty else Chart(data, _curves(figure, *_names(frames, figure, data), x, window))


def intervals(frames: dict[str, pd.DataFrame], figure: Figure, *, x: str = "step") -> Chart | None:
    """Measurements with their 95 % intervals (columns <metric>_low and <metric>_high), where these were logged."""
    data = points(frames, figure, x)
    if data.empty:
        return None
    for end in ("low", "high"):
        ends = Figure(figure.title, figure.unit, tuple((f"{metric}_{end}", label) for metric, label in figure.series))
        found = points(frames, ends, x)[["run", "series", "step", "value"]].rename(columns={"value": end})
        data = data.merge(found, on=["run", "series", "step"], how="left")
    data = data.astype({"low": float, "high": float})
    return Chart(data, _intervals(figure, *_names(frames, figure, data), x))


def points(frames: dict[str, pd.DataFrame], figure: Figure, x: str, window: int = 1) -> pd.DataFrame:
    """Rows run, series, x, step, value, smooth, few; in the order of `frames` and figure.series, missing ones left out.

    smooth: mean of the last `window` values of the series up to the row; few: whether the series has up to FEW points.
    """
    parts = []
    for run, frame in frames.items():
        for metric, label in figure.series:
            if metric not in frame:
                continue
            part = frame[["step", x, metric]].set_axis(["step", "x", "value"], axis=1).dropna()
            few = len(part) <= FEW
            part["smooth"] = part["value"] if few else part["value"].rolling(window, min_periods=1).mean()
            part = part.iloc[thinned(part["value"].to_numpy())]
            parts.append(part.assign(run=run, series=label, few=few))
    columns = ["run", "series", "x", "step", "value", "smooth", "few"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def thinned(values: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Positions of at most `limit` values: the first, last, lowest and highest of equal stretches, in order."""
    if len(values) <= limit:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), limit // 4 + 1).astype(int)
    keep = {0, len(values) - 1}
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        stretch = values[start:end]
        keep |= {start, end - 1, start + int(stretch.argmin()), start + int(stretch.argmax())}
    return np.array(sorted(keep))


def _names(frames: dict[str, pd.DataFrame], figure: Figure, data: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """(runs, series that have data): all of a spec that depends on the data."""
    present = set(data["series"])
    return tuple(frames), tuple(dict.fromkeys(label for _, label in figure.series if label in present))


# A page draws two dozen charts every few seconds: their Vega-Lite is made once, not at every look.
@functools.lru_cache(maxsize=1000)
def _curves(figure: Figure, runs: tuple[str, ...], series: tuple[str, ...], x: str, window: int) -> dict:
    base, line = _base(runs, series, x)
    raw, smooth = (_y(column, figure) for column in ("value", "smooth"))
    tips = [*_tips(), alt.Tooltip("smooth:Q", title=f"mean of {window}", format=".4~g")] if window > 1 else _tips()
    layers = [line.mark_line(opacity=0.28, strokeWidth=1).encode(y=raw)] if window > 1 else []
    layers.append(line.mark_line(strokeWidth=2).encode(y=smooth))
    layers.append(base.transform_filter("datum.few").mark_circle(size=36, opacity=1).encode(y=raw))
    layers.append(base.mark_circle(size=80, opacity=0).encode(y=smooth, tooltip=tips))
    return _spec(layers, figure, HEIGHT + 60 * (len(runs) > 1))


@functools.lru_cache(maxsize=1000)
def _intervals(figure: Figure, runs: tuple[str, ...], series: tuple[str, ...], x: str) -> dict:
    base, line = _base(runs, series, x)
    y = _y("value", figure)
    ends = [alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f")]
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.55)
    layers = [
        bars.encode(y=_y("low", figure), y2="high:Q"),
        line.mark_line(strokeWidth=1.5).encode(y=y),
        base.mark_circle(size=55, opacity=1).encode(y=y, tooltip=[*_tips(), *ends]),
    ]
    return _spec(layers, figure, HEIGHT + 60 * (len(runs) > 1))


def _base(runs: tuple[str, ...], series: tuple[str, ...], x: str) -> tuple[alt.Chart, alt.Chart]:
    """(x and colour, these with dashes): one run is told apart by its series; several keep their colour everywhere."""
    axis = alt.Axis(format="~s" if x == "tokens" else "d", tickCount=6, grid=False)
    base = alt.Chart().encode(x=alt.X("x:Q", title=AXES[x], axis=axis))
    look = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    legend = alt.Legend(orient="bottom", title=None, labelLimit=300, columns=2, **look)
    if len(runs) == 1:
        shown = legend if len(series) > 1 else None
        base = base.encode(color=alt.Color("series:N", scale=_scale(series, COLOURS), legend=shown))
        return base, base
    base = base.encode(color=alt.Color("run:N", scale=_scale(runs, COLOURS), legend=legend))
    if len(series) == 1:
        return base, base
    above = legend.copy()  # two legends in one place would run into each other
    above.orient, above.symbolStrokeColor = "top", "#888888"
    return base, base.encode(strokeDash=alt.StrokeDash("series:N", scale=_scale(series, DASHES), legend=above))


def _scale(names: Sequence[str], values: Sequence) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[values[i % len(values)] for i in range(len(names))])


def _y(column: str, figure: Figure) -> alt.Y:
    return alt.Y(f"{column}:Q", title=figure.unit or None, scale=alt.Scale(zero=figure.zero))


def _tips() -> list[alt.Tooltip]:
    step = alt.Tooltip("step:Q", format="d")
    return [alt.Tooltip("run:N"), alt.Tooltip("series:N"), step, alt.Tooltip("value:Q", format=".4~g")]


def _spec(layers: list[alt.Chart], figure: Figure, height: int) -> dict:
    chart = alt.layer(*layers).properties(title=alt.Title(figure.title, anchor="start", fontSize=14), height=height)
    spec = chart.to_dict(validate=False)  # its data is not there yet
    return {key: value for key, value in spec.items() if key not in ("data", "$schema")}


def held_out(frames: dict[str, pd.DataFrame], kind: str) -> tuple[tuple[str, str], ...]:
    """(metric, legend) of eval/<task>/<kind>, kind a regular expression such as pass_at_1 or majority_at_\\d+."""
    names = sorted({name for frame in frames.values() for name in frame.columns})
    matches = [m for name in names if (m := re.fullmatch(rf"eval/(.+)/({kind})", name))]
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
