"""Points -> charts. Pure: no reads, no Streamlit. Altair writes a figure's Vega-Lite once; data comes beside it."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

from dashboard import points
from dashboard.points import AXES, Figure
from dashboard.reference import Band

# Okabe-Ito, told apart by colour-blind readers; black and yellow left out, as each of them is lost on one theme.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
GREY = "#888888"
HEIGHT = 320
"Pixels, title and legend included."
TITLES = AXES | {"length": "response tokens", "budget": "thinking tokens allowed"}
"What may stand on an x axis."


@dataclass(frozen=True, slots=True)
class Chart:
    """Rows to draw, and the Vega-Lite that draws them."""

    data: pd.DataFrame
    spec: dict
    title: str = ""
    whole: Callable[[], pd.DataFrame] | None = None
    "All rows for a file, where `data` is thinned."

    def vega_lite(self, width: int = 640) -> dict:
        """One object with the data in it, for a picture or a page of its own."""
        rows = json.loads(self.data.to_json(orient="records", double_precision=12))  # Python's own types, NaN as null
        schema = "https://vega.github.io/schema/vega-lite/v6.json"
        return {"$schema": schema, "width": width, "data": {"values": rows}, **self.spec}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a reader chose above the charts."""

    x: str = "step"
    "One of AXES."
    window: int = 1
    "Values that are averaged into one; the raw ones stay visible behind."
    log: bool = False
    "Logarithmic y axis; values that are not above 0 are left out."

    @property
    def column(self) -> str:
        """The column of a frame that the x axis is made of."""
        return "time" if self.x == "clock" else self.x


def curves(
    frames: dict[str, pd.DataFrame],
    figure: Figure,
    *,
    x: str = "step",
    window: int = 1,
    log: bool = False,
    reference: Band | None = None,
) -> Chart | None:
    """Raw values pale behind their moving mean; None where no run has a value. Several runs: colour is the run."""
    data = _positive(points.points(frames, figure, x, window), log)
    if data.empty:
        return None
    spec = _curves(figure, *_names(list(frames), figure, data), Look(x=x, window=window, log=log))
    whole = functools.partial(points.points, frames, figure, x, window, whole=True)
    return Chart(data, _behind(spec, reference, x), figure.title, whole)


def intervals(
    frames: dict[str, pd.DataFrame], figure: Figure, *, x: str = "step", reference: Band | None = None
) -> Chart | None:
    """Measurements with their 95 % intervals (metrics <metric>_low and <metric>_high), where these were logged."""
    data = points.points(frames, figure, x)
    if data.empty:
        return None
    data = points.with_ends(data, frames, figure, x)
    spec = _intervals(figure, *_names(list(frames), figure, data), Look(x=x))
    return Chart(data, _behind(spec, reference, x), figure.title)


def bands(
    frames: dict[str, pd.DataFrame],
    groups: dict[str, list[str]],
    figure: Figure,
    *,
    x: str = "step",
    window: int = 1,
    log: bool = False,
    reference: Band | None = None,
) -> Chart | None:
    """Each group's mean over its seeds, in a band from the lowest seed to the highest. groups: name -> keys."""
    data = _positive(points.bands(frames, groups, figure, x, window), log)
    if data.empty:
        return None
    spec = _bands(figure, *_names(list(groups), figure, data), Look(x=x, window=window, log=log), "seeds")
    return Chart(data, _behind(spec, reference, x), figure.title)


def spread(data: pd.DataFrame, figure: Figure, *, limit: float | None = None) -> Chart | None:
    """A distribution by step as a line in a ribbon: rows of points.BAND_COLUMNS; limit: a line across, named so."""
    if data.empty:
        return None
    spec = _bands(figure, *_names(list(dict.fromkeys(data["run"])), figure, data), Look(), "answers")
    if limit is not None:
        at, once = {"y": {"datum": limit, "type": "quantitative"}}, {"values": [{}]}
        rule = {
            "data": once,
            "mark": {"type": "rule", "strokeDash": [2, 3], "strokeWidth": 1.5, "color": GREY},
            "encoding": at,
        }
        word = {"type": "text", "align": "left", "dx": 4, "dy": -6, "color": GREY, "text": f"limit {limit:g}"}
        name = {"data": once, "mark": word, "encoding": at | {"x": {"value": 0}}}
        spec = spec | {"layer": [*spec["layer"], rule, name]}
    return Chart(data, spec, figure.title)


def measured(data: pd.DataFrame, figure: Figure, x: str) -> Chart | None:
    """Shares with their intervals: rows run, series, x, value, low, high, n; x: one of TITLES."""
    if data.empty:
        return None
    names = _names(list(dict.fromkeys(data["run"])), figure, data)
    return Chart(data, _intervals(figure, *names, Look(x=x), "n"), figure.title)


def _positive(data: pd.DataFrame, log: bool) -> pd.DataFrame:
    if not log:
        return data
    return data[(data[[c for c in ("value", "smooth", "low") if c in data]] > 0).all(axis=1)]


def _names(runs: list[str], figure: Figure, data: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """(runs, series that have data): all of a spec that depends on the data."""
    present = set(data["series"])
    return tuple(runs), tuple(dict.fromkeys(label for _, label in figure.series if label in present))


# A page draws a dozen charts every few seconds: their Vega-Lite is made once, not at every look.
@functools.lru_cache(maxsize=1000)
def _curves(figure: Figure, runs: tuple[str, ...], series: tuple[str, ...], look: Look) -> dict:
    base, line = _base(runs, series, look.x)
    raw, smooth = (_y(column, figure, look) for column in ("value", "smooth"))
    tips = _tips(step=True)
    if look.window > 1:
        tips.append(alt.Tooltip("smooth:Q", title=f"mean of {look.window}", format=".4~g"))
    layers = [line.mark_line(opacity=0.28, strokeWidth=1).encode(y=raw)] if look.window > 1 else []
    layers.append(line.mark_line(strokeWidth=2).encode(y=smooth))
    layers.append(base.transform_filter("datum.few").mark_circle(size=36, opacity=1).encode(y=raw))
    layers.append(_hover(base).encode(y=smooth, tooltip=tips))
    return spec_of(layers, figure.title, HEIGHT + 60 * (len(runs) > 1))


@functools.lru_cache(maxsize=1000)
def _intervals(
    figure: Figure, runs: tuple[str, ...], series: tuple[str, ...], look: Look, count: str | None = None
) -> dict:
    base, line = _base(runs, series, look.x)
    y = _y("value", figure, look)
    tips = [*_tips(step=count is None), alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f")]
    tips += [alt.Tooltip(f"{count}:Q", title="answers", format="d")] if count else []
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.55)
    layers = [
        bars.encode(y=_y("low", figure, look), y2="high:Q"),
        line.mark_line(strokeWidth=1.5).encode(y=y),
        base.mark_circle(size=55, opacity=1).encode(y=y, tooltip=tips),
    ]
    return spec_of(layers, figure.title, HEIGHT + 60 * (len(runs) > 1))


@functools.lru_cache(maxsize=1000)
def _bands(figure: Figure, runs: tuple[str, ...], series: tuple[str, ...], look: Look, count: str) -> dict:
    base, line = _base(runs, series, look.x)
    ends = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("low", "high")]
    ends.append(alt.Tooltip("n:Q", title=count, format="d"))
    y = _y("value", figure, look)
    # One band a line: without detail an area would join those of two series.
    area = base.mark_area(opacity=0.22, strokeWidth=0).encode(y=_y("low", figure, look), y2="high:Q", detail="series:N")
    layers = [
        area,
        line.mark_line(strokeWidth=2).encode(y=y),
        base.transform_filter("datum.few").mark_circle(size=36, opacity=1).encode(y=y),
        _hover(base).encode(y=y, tooltip=[*_tips(), *ends]),
    ]
    return spec_of(layers, figure.title, HEIGHT + 60 * (len(runs) > 1))


def _behind(spec: dict, reference: Band | None, x: str) -> dict:
    """The chart with the reference's band drawn first; references are by step."""
    if reference is None or x != "step":
        return spec
    rows = {"values": reference.rows}
    place = {"x": {"field": "x", "type": "quantitative"}}
    ends = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    band = {"mark": {"type": "area", "color": GREY, "opacity": 0.2}, "data": rows, "encoding": place | ends}
    mean = {"y": {"field": "mean", "type": "quantitative"}}
    dashed = {"type": "line", "color": GREY, "strokeDash": [4, 3], "strokeWidth": 1.5}
    title = spec["title"] | {"subtitle": reference.label, "subtitleColor": GREY}
    layers = [band, {"mark": dashed, "data": rows, "encoding": place | mean}, *spec["layer"]]
    return spec | {"title": title, "layer": layers}


def _base(runs: tuple[str, ...], series: tuple[str, ...], x: str) -> tuple[alt.Chart, alt.Chart]:
    """(x and colour, these with dashes): one run is told apart by its series; several keep their colour everywhere."""
    axis = alt.Axis(format={"tokens": "~s", "clock": "~g"}.get(x, "d"), tickCount=6, grid=False)
    base = alt.Chart().encode(x=alt.X("x:Q", title=TITLES[x], axis=axis))
    if len(runs) == 1:
        shown = _legend(series) if len(series) > 1 else None
        base = base.encode(color=alt.Color("series:N", scale=_scale(series, COLOURS), legend=shown))
        return base, base
    base = base.encode(color=alt.Color("run:N", scale=_scale(runs, COLOURS), legend=_legend(runs)))
    if len(series) == 1:
        if len(runs) <= len(COLOURS):
            return base, base
        rounds = [DASHES[i // len(COLOURS) % len(DASHES)] for i in range(len(runs))]  # colours come again, dashed
        return base, base.encode(strokeDash=alt.StrokeDash("run:N", scale=_scale(runs, rounds), legend=_legend(runs)))
    above = _legend(series, orient="top", symbolStrokeColor=GREY)  # two legends in one place would run into each other
    return base, base.encode(strokeDash=alt.StrokeDash("series:N", scale=_scale(series, DASHES), legend=above))


def _legend(names: tuple[str, ...], **look: str) -> alt.Legend:
    """Two columns; a few names of which one is long stand below each other, so that none is cut."""
    one = len(names) <= 4 and max(map(len, names)) > 22
    shape = {"columns": 1, "labelLimit": 330} if one else {"columns": 2, "labelLimit": 150}
    stroke = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    return alt.Legend(**({"orient": "bottom", "title": None} | shape | stroke | look))


def _hover(base: alt.Chart) -> alt.Chart:
    """What the pointer meets. Its points have no labels of their own: the browser would write each one's, unseen."""
    return base.transform_filter("datum.hover").mark_circle(size=80, opacity=0, aria=False)


def _scale(names: Sequence[str], values: Sequence) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[values[i % len(values)] for i in range(len(names))])


def _y(column: str, figure: Figure, look: Look) -> alt.Y:
    scale = alt.Scale(type="log", nice=False) if look.log else alt.Scale(zero=figure.zero)
    return alt.Y(f"{column}:Q", title=figure.unit or None, scale=scale)


def _tips(*, step: bool = False) -> list[alt.Tooltip]:
    place = alt.Tooltip("step:Q", format="d") if step else alt.Tooltip("x:Q", format=".4~g")
    return [alt.Tooltip("run:N"), alt.Tooltip("series:N"), place, alt.Tooltip("value:Q", format=".4~g")]


def spec_of(layers: list[alt.Chart], title: str, height: int = HEIGHT) -> dict:
    """Altair's layers as Vega-Lite that waits for its data."""
    chart = alt.layer(*layers).properties(title=alt.Title(title, anchor="start", fontSize=14), height=height)
    return waiting(chart.to_dict(validate=False))  # its data is not there yet


def waiting(spec: dict) -> dict:
    """Without the data named "empty" that Altair gives every layer, which would hide the one that stands above."""
    layers = {"layer": [waiting(layer) for layer in spec["layer"]]} if "layer" in spec else {}
    return {key: value for key, value in spec.items() if key not in ("data", "datasets", "$schema")} | layers
