"""What the pages with charts share: the controls above them and their places."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import charts, choice, export, reference
from dashboard.charts import Chart, Look
from dashboard.points import AXES, Figure

FOLD = 4
"Charts that a screen shows at once; those below it are sent when the browser had time to draw these."
BREATH_S = 0.6
WINDOWS = (1, 5, 10, 20, 50, 100, 200, 500)
EACH, BAND = "each run", "band over seeds"


@dataclass(frozen=True, slots=True)
class View:
    """How the chosen runs are drawn: what stands above the charts, and so in the address."""

    look: Look
    seeds: bool
    "Whether runs that differ in seeds only are joined in a band."

    def draw(self, frames: dict[str, pd.DataFrame], figure: Figure, *, measured: bool = False) -> Chart | None:
        """The figure of these runs; measured: with the intervals that an evaluation logs."""
        look = self.look
        behind = reference.band(reference.common(choice.picked()), figure.series[0][0]) if figure.series else None
        if self.seeds:
            options = dict(x=look.x, window=look.window, log=look.log, reference=behind)
            return charts.bands(frames, choice.seed_groups(), figure, **options)
        if measured:
            return charts.intervals(frames, figure, x=look.x, reference=behind)
        return charts.curves(frames, figure, x=look.x, window=look.window, log=look.log, reference=behind)


def view() -> View:
    """The controls above the charts, each of them a part of the address."""
    bound = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        x = st.segmented_control("x axis", list(AXES), default="step", required=True, key="x", width="content", **bound)
        window = st.select_slider("Smoothing: mean of the last", WINDOWS, value=5, key="smooth", width=220, **bound)
        log = st.toggle("Log scale", key="log", **bound)
        several = any(len(keys) > 1 for keys in choice.seed_groups().values())
        seeds = several and (
            st.segmented_control("Seeds", (EACH, BAND), default=EACH, required=True, key="seeds", **bound) == BAND
        )
    return View(Look(x=x, window=window, log=log), seeds)


def axis_and_smoothing() -> tuple[str, int]:
    """(x axis, window of the moving mean) of `view`."""
    look = view().look
    return look.x, look.window


def grid(drawn: Iterable[Chart | None], *, below: bool = False) -> int:
    """Two charts a row, one on a phone, each with its downloads; those without data (None) take no place; -> how many.

    Each is sent as soon as it is made. below: the reader has to scroll to all of them.
    """
    shown = 0
    for chart in drawn:
        if chart is None:
            continue
        if shown == (0 if below else FOLD):
            time.sleep(BREATH_S)  # a browser draws in one thread: sent together, the last would hold up the first
        if shown % 2 == 0:
            row = st.columns(2)
        with row[shown % 2]:
            show(chart)
        shown += 1
    return shown


def show(chart: Chart) -> None:
    """One chart and its downloads. Titles on a page differ: they are the keys."""
    st.vega_lite_chart(chart.data, chart.spec, key=f"chart {chart.title}")
    export.buttons(chart, chart.title)
