"""Charts of the pages Aha, Model, Plan and Claims; pure, as dashboard/charts.py."""

import altair as alt
import pandas as pd

from dashboard.charts import COLOURS, Chart, waiting
from rl.aha import RULES

BLUE, ORANGE, GREEN, GREY = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[6]


def made(chart: alt.Chart | alt.LayerChart, data: pd.DataFrame, title: str, height: int = 300) -> Chart:
    """The chart as the pages take it: its data apart from its Vega-Lite."""
    chart = chart.properties(title=alt.Title(title, anchor="start", fontSize=14), height=height)
    return Chart(data, waiting(chart.to_dict(validate=False)), title)


def rate_against_base(rates: pd.DataFrame, base: dict[str, tuple[float, float, float]], rule: str) -> Chart:
    """One rule of rates.through_training, with the start's own rate as a band; base: rule -> mean, low, high."""
    data = rates[rates["rule"] == rule].copy()
    if rule in base:
        data["base"], data["base_low"], data["base_high"] = base[rule]
    x = alt.X("step:Q", title="step", axis=alt.Axis(format="d", tickCount=6, grid=False))
    y = alt.Y("value:Q", title="share of answers", scale=alt.Scale(zero=True))
    colour = COLOURS[RULES.index(rule)]
    tips = [alt.Tooltip("step:Q"), *(alt.Tooltip(f"{n}:Q", format=".3f") for n in ("value", "low", "high"))]
    tips += [alt.Tooltip("found:Q"), alt.Tooltip("of:Q")]
    layers = []
    if rule in base:
        layers += [
            alt.Chart().mark_area(color=GREY, opacity=0.28).encode(x=x, y="base_low:Q", y2="base_high:Q"),
            alt.Chart().mark_line(color=GREY, strokeDash=[6, 3]).encode(x=x, y="base:Q"),
        ]
    layers += [
        alt.Chart().mark_rule(color=colour, opacity=0.55, strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q"),
        alt.Chart().mark_line(color=colour, strokeWidth=1.5).encode(x=x, y=y),
        alt.Chart().mark_circle(color=colour, size=55, opacity=1).encode(x=x, y=y, tooltip=tips),
    ]
    band = " (grey: the start's own rate)" if rule in base else ""
    return made(alt.layer(*layers), data, f"{rule}{band}", 280)


def violation_map(data: pd.DataFrame) -> Chart:
    """Rows of experts.violations: how uneven each layer is at each step."""
    layers = list(dict.fromkeys(data["layer"]))
    scale = alt.Scale(scheme="cividis", domain=[0, max(1.0, float(data["maxvio"].max()))])
    return _map(data, "layer:N", layers, alt.Color("maxvio:Q", title="maxvio", scale=scale), "Uneven load by layer")


def load_map(data: pd.DataFrame, layer: str) -> Chart:
    """Rows of experts.cells: the load of each expert of a layer; 1 is an even share."""
    scale = alt.Scale(scheme="blueorange", domainMid=1.0, domain=[0, max(2.0, float(data["load"].max()))])
    colour = alt.Color("load:Q", title="load", scale=scale)
    return _map(data, "expert:O", sorted(data["expert"].unique()), colour, f"Load of each expert, {layer} (1: even)")


def _map(data: pd.DataFrame, rows: str, order: list, colour: alt.Color, title: str) -> Chart:
    """A heat map over steps."""
    steps = sorted(int(step) for step in data["step"].unique())
    axis = alt.Axis(labelOverlap=True, labelAngle=0, values=steps[:: max(1, len(steps) // 8)])
    kinds = {"step": "step:O", "expert": "expert:O", "layer": "layer:N"}
    tips = [alt.Tooltip(kinds.get(name, f"{name}:Q"), **({} if name in kinds else {"format": ".4~g"})) for name in data]
    y = alt.Y(rows, sort=order, title=rows.partition(":")[0], axis=alt.Axis(labelOverlap=True))
    chart = alt.Chart().mark_rect().encode(x=alt.X("step:O", title="step", axis=axis), y=y, color=colour, tooltip=tips)
    return made(chart, data, title, min(480, 22 * len(order) + 130))


def bias_lines(data: pd.DataFrame, layer: str) -> Chart:
    """Rows of experts.cells: where each expert's bias went since the first line."""
    chart = (
        alt.Chart()
        .mark_line(color=BLUE, opacity=0.6, strokeWidth=1.2)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(format="d", tickCount=6, grid=False)),
            y=alt.Y("drift:Q", title="bias, since the first line"),
            detail="expert:N",
            tooltip=["step:Q", "expert:N", alt.Tooltip("bias:Q", format=".5f"), alt.Tooltip("drift:Q", format="+.5f")],
        )
    )
    return made(chart, data, f"Drift of the router's bias, {layer}: a line an expert", 300)


def bars(data: pd.DataFrame, title: str, unit: str, *, limit: float | None = None, form: str = ".3~s") -> Chart:
    """Rows name, value, in their order, each bar with its figure; limit: a dashed line at what there is room for."""
    order = list(data["name"])
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False))
    room = 1.2 * max(float(data["value"].max()), limit or 0.0)  # for the figures behind the bars
    x = alt.X("value:Q", title=unit, axis=alt.Axis(format=".2~s", tickCount=5), scale=alt.Scale(domain=[0, room]))
    base = alt.Chart().encode(y=y, x=x)
    layers = [
        base.mark_bar(color=BLUE).encode(tooltip=["name:N", alt.Tooltip("value:Q", format=".5~g")]),
        base.mark_text(align="left", dx=4, color=GREY).encode(text=alt.Text("value:Q", format=form)),
    ]
    if limit is not None:
        data = data.assign(limit=limit)
        layers.append(
            alt.Chart().mark_rule(color=ORANGE, strokeDash=[6, 3], strokeWidth=2).encode(x=alt.X("mean(limit):Q"))
        )
    return made(alt.layer(*layers), data, title, 34 * len(order) + 110)


def fp8_intervals(data: pd.DataFrame) -> Chart:
    """Rows name, mean, least, most (relative differences of loss), limit: the paper's bound on both sides of 0."""
    order = list(data["name"])
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=260))
    form = alt.Axis(format="+.2%", tickCount=5)
    layers = [
        alt.Chart().mark_rule(strokeWidth=3, color=BLUE).encode(y=y, x=alt.X("least:Q", axis=form), x2="most:Q"),
        alt.Chart()
        .mark_circle(size=80, color=BLUE, opacity=1)
        .encode(
            y=y,
            x=alt.X("mean:Q", title="loss against the reference", axis=form),
            tooltip=["name:N", *(alt.Tooltip(f"{n}:Q", format="+.3%") for n in ("mean", "least", "most"))],
        ),
        alt.Chart().mark_rule(color=ORANGE, strokeDash=[6, 3]).encode(x="limit:Q"),
        alt.Chart().mark_rule(color=ORANGE, strokeDash=[6, 3]).encode(x="lower:Q"),
    ]
    data = data.assign(lower=-data["limit"])
    return made(alt.layer(*layers), data, "Loss in FP8 against the reference, least to most of the seeds", 240)
