"""Which runs a page shows: held in the URL (?run=...&run=...), checked against the known runs, kept across pages."""

from collections.abc import Callable, Iterable

import pandas as pd
import streamlit as st

from dashboard import store
from dashboard.shown import notice, plain

LIVE_EVERY_S = 2.0
"Between two looks at an unfinished run."
MOST_RUNS = 24
"That are drawn at once."
MAKE_DATA = "`make quick` makes some in five minutes on a laptop, `make reproduce` the whole journey."


def choose() -> None:
    """The choice in the side bar. A key in the URL that is no known run is dropped by the widget."""
    runs = store.known().runs
    state = st.session_state
    if "run" not in state and "run" not in st.query_params and runs:
        newest = next(iter(runs))
        state["run"] = [newest]
        st.query_params["run"] = newest  # a link names its run, not "the newest"
    if "run" in state:
        state["run"] = [key for key in state["run"] if key in runs]
    st.sidebar.multiselect(
        "Runs shown",
        list(runs),
        key="run",
        bind="query-params",
        max_selections=MOST_RUNS,
        placeholder="none",
        help="The first is the one whose samples are shown. The choice is part of this page's address.",
    )


def picked() -> list[store.Run]:
    """The chosen runs that are still there."""
    runs = store.known().runs
    return [runs[key] for key in st.session_state.get("run", []) if key in runs]


def picked_or_stop() -> list[store.Run]:
    """The chosen runs; without one the page says what to do and ends."""
    listing = store.known()
    notice(listing.problems)
    if not listing.runs:
        empty_store()
        st.stop()
    if not picked():
        st.info("No run is chosen. Choose one in the side bar, or in the table of the page Runs.")
        st.stop()
    return picked()


def seed_groups() -> dict[str, list[str]]:
    """name -> keys of the chosen runs that differ in seeds only; a run of its own stands under its key."""
    by_group: dict[str, list[str]] = {}
    for run in picked():
        by_group.setdefault(run.group or run.key, []).append(run.key)
    named = {}
    for keys in by_group.values():
        named[keys[0] if len(keys) == 1 else f"{keys[0]}, {len(keys)} seeds"] = keys
    return named


def empty_store() -> None:
    """Says where runs were looked for, and which command makes some."""
    where = f"{plain(store.root())} and {plain(store.mlflow_read.shown_uri(store.mlflow_uri()))}"
    st.info(f"There are no runs yet in {where}. {MAKE_DATA}")


def live(body: Callable[[], None], *, always: bool = False) -> None:
    """Draw body, again and again while a chosen run is unfinished (or always); the rest of the page stays still."""
    running = any(run.live for run in picked())

    def part() -> None:
        body()
        if running and not any(run.live for run in picked()):
            st.rerun()  # the last run ended: draw once more, without the clock

    st.fragment(part, run_every=LIVE_EVERY_S if running or always else None)()


def frames(names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """key -> metrics of the chosen runs, those asked for or all; what cannot be read is said on the page."""
    read = store.metrics_of(picked(), names)
    notice(m.problem for m in read.values() if m.problem)
    return {key: m.frame for key, m in read.items()}


def metric_names() -> list[str]:
    """All metrics that the chosen runs logged."""
    return sorted({name for metrics in store.metrics_of(picked(), ()).values() for name in metrics.names})


def wait_for_metrics() -> None:
    """Says that nothing was logged yet; when something is, the page is drawn."""
    if metric_names():
        st.rerun()
    frames()
    st.info(f"The chosen runs have logged nothing yet. {MAKE_DATA}")
