"""What the pages with charts share: the controls above them and their places."""

from collections.abc import Iterable

import streamlit as st

from dashboard import charts


def axis_and_smoothing() -> tuple[str, int]:
    """(x axis, window of the moving mean), both part of the address."""
    left, right, _ = st.columns([2, 3, 4], gap="large", vertical_alignment="bottom")
    x = left.segmented_control("x axis", list(charts.AXES), default="step", required=True, key="x", bind="query-params")
    window = right.slider("Smoothing: mean of the last steps", 1, 50, 5, key="smooth", bind="query-params")
    return x, window


def grid(drawn: Iterable[charts.Chart | None]) -> None:
    """Two charts a row; those without data (None) take no place."""
    present = [chart for chart in drawn if chart is not None]
    for i in range(0, len(present), 2):
        for column, chart in zip(st.columns(2), present[i : i + 2], strict=False):
            column.vega_lite_chart(chart.data, chart.spec)
