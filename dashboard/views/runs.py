"""Runs: what there is, how far each came, and which of them the other pages show."""

from datetime import datetime

import pandas as pd
import streamlit as st

from dashboard import charts, choice, store
from dashboard.shown import notice

STATUS = {"running": "● running", "silent": "◌ silent", "finished": "✓ finished", "failed": "✗ failed"}
HELP = {
    "status": "Running: it wrote within the last five minutes. Silent: it says it runs, but has written nothing since.",
    "pass@1": "The last one measured on held-out questions, with its 95 % interval.",
    "commit": "Of the code that ran.",
}


def row(run: store.Run) -> dict:
    """One line of the table; None is shown as "-"."""
    frame = store.metrics(run).frame
    return {
        "run": run.key,
        "status": STATUS.get(run.status, run.status),
        "stage": run.stage,
        "scale": run.scale,
        "seed": run.seed,
        "steps": f"{frame['step'].iloc[-1]:,.0f}" if len(frame) else None,
        "pass@1": pass_at_1(frame),
        "commit": run.commit[:8] if run.commit else None,
        "started": datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M") if run.started else None,
        "name": run.name,
    }


def pass_at_1(frame: pd.DataFrame) -> str | None:
    """The last held-out pass@1 of each task with its interval."""
    shown = []
    for metric, label in charts.held_out({"": frame}, "pass_at_1"):
        value, low, high = (charts.latest(frame, metric + end) for end in ("", "_low", "_high"))
        task = label.partition(", ")[2]
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        shown.append(f"{task} {value:.3f}{interval}".strip())
    return ", ".join(shown) or None


def take_over() -> None:
    """The table's selection becomes the choice."""
    rows = st.session_state["table"]["selection"]["rows"]
    order = st.session_state["table_order"]
    st.session_state["run"] = [order[i] for i in rows if i < len(order)][: len(charts.COLOURS)]
    st.session_state["choice_changed"] = True


def table() -> None:
    """All runs. Selected lines are the runs that the other pages show."""
    listing = store.known()
    if st.session_state.pop("choice_changed", False) or list(listing.runs) != order_in_side_bar:
        st.rerun()  # the side bar lies outside of this part of the page
    notice(listing.problems)
    if not listing.runs:
        choice.empty_store()
        return
    rows = pd.DataFrame([row(run) for run in listing.runs.values()])
    st.session_state["table_order"] = list(listing.runs)
    chosen = [i for i, key in enumerate(listing.runs) if key in st.session_state["run"]]
    st.session_state["table"] = {"selection": {"rows": chosen, "columns": [], "cells": []}}
    st.dataframe(
        rows,
        key="table",
        hide_index=True,
        placeholder="-",
        on_select=take_over,
        selection_mode="multi-row",
        height=min(35 * (len(rows) + 1) + 3, 700),
        column_config={name: st.column_config.TextColumn(help=HELP.get(name)) for name in rows.columns},
    )


st.title("Runs")
st.caption("Select lines: the other pages show these runs. New runs appear by themselves.")
order_in_side_bar = list(store.known().runs)
choice.live(table, always=True)
