"""Runs: what there is, how far each came, in what they differ, and which of them the other pages show."""

from datetime import datetime

import pandas as pd
import streamlit as st

from dashboard import charts, choice, controls, figures, store, tail
from dashboard.config_diff import differences
from dashboard.shown import notice
from dashboard.store import Run

STATUS = {"running": "● running", "silent": "◌ silent", "finished": "✓ finished", "failed": "✗ failed"}
FILTERS = ("status", "stage", "scale", "task", "commit")
HELP = {
    "status": "Running: it wrote within the last five minutes. Silent: it says it runs, but has written nothing since.",
    "done": "Of the steps (or, pre-training, of the tokens) that its configuration asks for.",
    "left": "At the rate of its last lines.",
    "pass@1": "The last one measured on held-out questions, with its 95 % interval.",
    "commit": "Of the code that ran.",
}
COLUMNS = {
    "done": st.column_config.ProgressColumn(help=HELP["done"], format="percent", min_value=0, max_value=1),
    "steps": st.column_config.NumberColumn(format="localized"),
    "steps/min": st.column_config.NumberColumn(format="%.1f"),
}


def value(run: Run, name: str) -> str | None:
    """What a filter compares."""
    return run.commit[:8] if name == "commit" and run.commit else getattr(run, name)


def row(run: Run) -> dict:
    """One line of the table; None is shown as "-"."""
    end = store.tail_of(run)
    done, left = tail.progress(run.stage, run.config, end)
    rate = end.steps_per_s if run.live else None
    return {
        "run": run.key,
        "status": STATUS.get(run.status, run.status),
        "done": done,
        "steps": end.step,
        "steps/min": rate * 60 if rate else None,
        "left": duration(left) if run.live and left is not None else None,
        "pass@1": pass_at_1(end),
        "stage": run.stage,
        "scale": run.scale,
        "task": run.task,
        "seed": run.seed,
        "commit": value(run, "commit"),
        "started": datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M") if run.started else None,
        "name": run.name,
    }


def duration(seconds: float) -> str:
    """Rounded for people: 42 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def pass_at_1(end: tail.Tail) -> str | None:
    """The last held-out pass@1 of each task with its interval."""
    shown = []
    for task, (mean, low, high) in end.pass_at_1.items():
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        name = f"{task} " if len(end.pass_at_1) > 1 else ""
        shown.append(f"{name}{mean:.3f}{interval}")
    return ", ".join(shown) or None


def fits(run: Run) -> bool:
    """Whether a run passes the search and the filters."""
    words = st.session_state.get("q", "").casefold().split()
    text = " ".join(filter(None, (run.key, run.name, run.stage, run.task, run.commit, run.status))).casefold()
    chosen = {name: st.session_state.get(name) for name in FILTERS}
    return all(word in text for word in words) and all(
        value(run, name) in wanted for name, wanted in chosen.items() if wanted
    )


def filters() -> None:
    """Search and filters, in the address; a filter offers what there is."""
    runs = store.known().runs.values()
    columns = st.columns([2, *([1] * len(FILTERS))], gap="small")
    columns[0].text_input("Search", key="q", bind="query-params", placeholder="words of name, task, commit")
    for column, name in zip(columns[1:], FILTERS, strict=True):
        there = sorted({text for run in runs if (text := value(run, name))})
        if name in st.session_state:  # a value that went with the last run that had it
            st.session_state[name] = [text for text in st.session_state[name] if text in there]
        column.multiselect(name.capitalize(), there, key=name, bind="query-params", placeholder="all")


def take_over() -> None:
    """The table's selection becomes the choice; chosen runs that the filters hide stay chosen."""
    shown = st.session_state["table_order"]
    ticked = {shown[i] for i in st.session_state["table"]["selection"]["rows"] if i < len(shown)}
    before = st.session_state["run"]
    kept = [key for key in before if key in ticked or key not in shown]
    added = [key for key in shown if key in ticked and key not in before]
    st.session_state["run"] = (kept + added)[: choice.MOST_RUNS]
    st.session_state["choice_changed"] = True


def table() -> None:
    """The runs that fit. Selected lines are the runs that the other pages show."""
    listing = store.known()
    if st.session_state.pop("choice_changed", False) or offered(listing) != offered_at_first:
        st.rerun()  # the side bar and the filters lie outside of this part of the page
    notice(listing.problems)
    if not listing.runs:
        choice.empty_store()
        return
    runs = [run for run in listing.runs.values() if fits(run)]
    live = sum(run.live for run in listing.runs.values())
    st.caption(f"{len(runs)} of {len(listing.runs)} runs fit; {live} running.")
    if not runs:
        st.info("No run fits. Take a filter away.")
        return
    rows = pd.DataFrame([row(run) for run in runs])
    for name in ("done", "steps", "steps/min"):
        rows[name] = rows[name].astype("Float64")
    st.session_state["table_order"] = [run.key for run in runs]
    chosen = [i for i, run in enumerate(runs) if run.key in st.session_state["run"]]
    st.session_state["table"] = {"selection": {"rows": chosen, "columns": [], "cells": []}}
    text = {name: st.column_config.TextColumn(help=HELP.get(name)) for name in rows.columns if name not in COLUMNS}
    st.dataframe(
        rows,
        key="table",
        hide_index=True,
        placeholder="-",
        on_select=take_over,
        selection_mode="multi-row",
        height=min(35 * (len(rows) + 1) + 3, 560),
        column_config=text | COLUMNS,
    )


def offered(listing: store.Listing) -> list[tuple]:
    """What the side bar and the filters are made of."""
    return [(run.key, *(value(run, name) for name in FILTERS)) for run in listing.runs.values()]


def compare() -> None:
    """The settings in which the picked runs differ."""
    runs = choice.picked()
    if len(runs) < 2:
        return
    st.subheader("Differences of configuration")
    known = [run for run in runs if run.config]
    if len(known) < len(runs):
        st.caption(f"{len(runs) - len(known)} of the picked runs wrote no configuration here.")
    found = differences({run.key: {**run.config, "commit": run.commit} for run in known})
    if len(known) > 1 and found.empty:
        st.info("The picked runs have the same configuration and commit.")
    elif len(known) > 1:
        st.dataframe(found, hide_index=True, placeholder="-", key="differences")


def glance() -> None:
    """The first curve there is of the picked runs, the one that most look for: reward, else loss."""
    names = choice.metric_names()
    parts = figures.by_part(sorted(names))
    wanted = next((f for f in parts.get("Overview", []) if f.title in (figures.REWARD, "Loss")), None)
    if wanted is not None:
        controls.grid([charts.curves(choice.frames(list(wanted.metrics)), wanted, window=20)])


st.title("Runs")
st.caption("Select lines: the other pages show these runs. New runs appear by themselves.")
offered_at_first = offered(store.known())
if store.known().runs:
    filters()
choice.live(table, always=True)
compare()
if choice.picked():
    choice.live(glance)
store.read_ahead(choice.picked())
