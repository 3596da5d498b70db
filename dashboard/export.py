"""A chart as a file: PNG, SVG or CSV, made when the button is pressed and not before."""

import functools
import re

import streamlit as st

from dashboard.charts import Chart

KINDS = {"PNG": "image/png", "SVG": "image/svg+xml", "CSV": "text/csv"}


def made(chart: Chart, kind: str) -> bytes:
    """The file's content. Pictures are on white; the CSV has all rows, also those that the chart thins."""
    if kind == "CSV":
        rows = chart.whole() if chart.whole else chart.data
        return rows.drop(columns=["few", "hover"], errors="ignore").to_csv(index=False).encode()
    import vl_convert  # 0.2 s and 60 MB, and few readers press the button

    spec = chart.vega_lite() | {"background": "white", "config": {"font": "sans-serif", "view": {"stroke": None}}}
    if kind == "PNG":
        return vl_convert.vegalite_to_png(spec, scale=2)
    return vl_convert.vegalite_to_svg(spec).encode()


def buttons(chart: Chart, key: str) -> None:
    """PNG · SVG · CSV under a chart."""
    name = re.sub(r"[^a-z0-9]+", "_", chart.title.lower()).strip("_") or "chart"
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        for kind, mime in KINDS.items():
            st.download_button(
                kind,
                functools.partial(made, chart, kind),
                file_name=f"{name}.{kind.lower()}",
                mime=mime,
                key=f"{key} {kind}",
                on_click="ignore",
                type="tertiary",
            )
