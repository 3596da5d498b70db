"""DataFrames -> Altair charts. Pure: no reads, no Streamlit. Missing points stay missing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

# Okabe-Ito, told apart by colour-blind readers; black and yellow left out, as one of them is lost on either theme.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DASHES = ((1, 0), (5, 3), (2, 2), (8, 3, 2, 3))
MAX_POINTS = 1500
"Points of one line that are sent to the browser; more are thinned, peaks kept."
AXES = {"step": "step", "tokens": "tokens seen"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart of metrics against steps or tokens."""

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    "(metric, its name in the legend)."
    zero: bool = True
    "Whether the y axis starts at 0."
    log: bool = False
    note: str = ""
    "A sentence below the title."

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it draws."""
        return tuple(metric for metric, _ in self.series)


def melted(frames: dict[str, pd.DataFrame], figure: Figure, x: str) -> pd.DataFrame:
    """Long form of a figure's data: run, series, x, step, value; in the order of `frames` and figure.series."""
    parts = []
    for run, frame in frames.items():
        for metric, label in figure.series:
            if metric in frame and x in frame:
                part = frame[["step", x]].set_axis(["step", "x"], axis=1).assign(value=frame[metric], run=run)
                parts.append(part.assign(series=label).dropna())
    columns = ["run", "series", "x", "step", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def smoothed(data: pd.DataFrame, window: int) -> pd.DataFrame:
    """data with a column smooth: mean of the last `window` values of its run and series up to each point."""
    groups = data.groupby(["run", "series"], sort=False)["value"]
    return data.assign(smooth=groups.transform(lambda v: v.astype(float).rolling(window, min_periods=1).mean()))


def thinned(data: pd.DataFrame, limit: int = MAX_POINTS) -> pd.DataFrame:
    """At most about `limit` rows of each run and series: the first, last, lowest and highest of equal stretches."""
    if data.empty:
        return data
    keep = []
    for _, part in data.groupby(["run", "series"], sort=False):
        if len(part) <= limit:
            keep.append(part)
            continue
        stretch = pd.Series(range(len(part)), index=part.index) * (limit // 4) // len(part)
        values = part["value"].astype(float).groupby(stretch)
        rows = {*values.idxmin(), *values.idxmax(), *values.head(1).index, *values.tail(1).index}
        keep.append(part.loc[sorted(rows)])
    return pd.concat(keep, ignore_index=True)


def curves(frames: dict[str, pd.DataFrame], figure: Figure, *, x: str = "step", window: int = 1) -> alt.Chart | None:
    """Raw values pale behind their moving mean; None where no run has a value. Several runs: colour is the run."""
    data = thinned(smoothed(melted(frames, figure, x), window))
    if data.empty:
        return None
    colour, dash = _encodings(frames, figure, data)
    base = alt.Chart().encode(x=_x(x), color=colour)
    base = base.encode(strokeDash=dash) if dash else base
    scale = alt.Scale(type="log") if figure.log and data["value"].min() > 0 else alt.Scale(zero=figure.zero)
    y = alt.Y("value:Q", title=figure.unit, scale=scale)
    layers = []
    if window > 1:
        layers.append(base.mark_line(opacity=0.28, strokeWidth=1).encode(y=y))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y.copy() if window == 1 else _of("smooth", y)))
    few = data.groupby(["run", "series"]).size().min() <= 40  # a line through one point would not be seen
    dots = base.mark_circle(size=28 if few else 60, opacity=0.75 if few else 0)
    layers.append(dots.encode(y=y if few or window == 1 else _of("smooth", y), tooltip=_tooltip(window)))
    return _finished(alt.layer(*layers, data=data), figure)


def intervals(frames: dict[str, pd.DataFrame], figure: Figure, *, x: str = "step") -> alt.Chart | None:
    """Measurements with their 95 % intervals (columns <metric>_low and <metric>_high), where these were logged."""
    data = melted(frames, figure, x)
    if data.empty:
        return None
    for end in ("low", "high"):
        ends = tuple((f"{metric}_{end}", label) for metric, label in figure.series)
        found = melted(frames, Figure(figure.title, figure.unit, ends), x).rename(columns={"value": end})
        data = data.merge(found[["run", "series", "step", end]], on=["run", "series", "step"], how="left")
    data = data.astype({"low": float, "high": float})
    colour, dash = _encodings(frames, figure, data)
    base = alt.Chart().encode(x=_x(x), color=colour)
    y = alt.Y("value:Q", title=figure.unit, scale=alt.Scale(zero=True))
    tips = [*_tooltip(1), alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f")]
    line = base.mark_line(strokeWidth=1.5)
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2, opacity=0.6)
        .encode(y="low:Q", y2="high:Q"),
        (line.encode(strokeDash=dash) if dash else line).encode(y=y),
        base.mark_circle(size=55, opacity=1).encode(y=y, tooltip=tips),
    ]
    return _finished(alt.layer(*layers, data=data), figure)


def _encodings(frames: dict, figure: Figure, data: pd.DataFrame) -> tuple[alt.Color, alt.StrokeDash | None]:
    """Colour and dash: one run is told apart by its series; several runs keep their colour in every chart."""
    labels = [label for _, label in figure.series if label in set(data["series"])]
    legend = alt.Legend(orient="bottom", title=None, labelLimit=320, columns=2, symbolType="stroke", symbolOpacity=1)
    if len(frames) > 1:
        dash = None
        if len(labels) > 1:
            dash = alt.StrokeDash(
                "series:N", scale=alt.Scale(domain=labels, range=_cycled(DASHES, labels)), legend=legend
            )
        names = list(frames)
        return alt.Color("run:N", scale=alt.Scale(domain=names, range=_cycled(COLOURS, names)), legend=legend), dash
    scale = alt.Scale(domain=labels, range=_cycled(COLOURS, labels))
    return alt.Color("series:N", scale=scale, legend=legend if len(labels) > 1 else None), None


def _cycled(values: Sequence, names: Sequence) -> list:
    return [values[i % len(values)] for i in range(len(names))]


def _x(x: str) -> alt.X:
    return alt.X("x:Q", title=AXES[x], axis=alt.Axis(format="~s" if x == "tokens" else "d", tickCount=6, grid=False))


def _of(column: str, y: alt.Y) -> alt.Y:
    copy = y.copy()
    copy.shorthand = f"{column}:Q"
    return copy


def _tooltip(window: int) -> list[alt.Tooltip]:
    shown = [alt.Tooltip("run:N"), alt.Tooltip("series:N"), alt.Tooltip("step:Q", format="d")]
    shown.append(alt.Tooltip("value:Q", format=".4~g"))
    return [*shown, alt.Tooltip("smooth:Q", title=f"mean of {window}", format=".4~g")] if window > 1 else shown


def _finished(chart: alt.LayerChart, figure: Figure) -> alt.LayerChart:
    below = {"subtitle": figure.note, "subtitleFontSize": 12} if figure.note else {}
    return chart.properties(title=alt.Title(figure.title, anchor="start", fontSize=14, **below), height=230)


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
