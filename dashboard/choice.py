"""Which runs a page shows: held in the URL (?run=...&run=...), checked against the known runs, kept across pages."""

from collections.abc import Callable, Iterable

import pandas as pd
import streamlit as st

from dashboard import charts, store
from dashboard.shown import notice, plain

LIVE_EVERY_S = 3.0
"Between two looks at an unfinished run."
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
        max_selections=len(charts.COLOURS),
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
