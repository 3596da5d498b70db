"""Lineage: which stage made which model from which, back to the base; a box or a line leads to its run."""

import pandas as pd
import streamlit as st

from dashboard import choice, family, store
from dashboard.shown import notice, plain


def row(model: family.Model) -> dict:
    """A line of the table."""
    return {
        "stage": model.stage,
        "run": model.run,
        "id": model.id,
        "parents": ", ".join(model.parents) or None,
        "seed": model.seed,
        "commit": model.commit,
        "made": model.created,
        "path": model.path,
    }


def checkpoints(run: store.Run) -> list[str]:
    """Names of a run's saved steps; links are left out."""
    folder = run.folder / "checkpoints" if run.folder else None
    if folder is None or folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


st.title("Lineage")
st.caption("Every model and set with what it was made from, as the stages wrote it down beside them (lineage.json).")
listing = store.known()
notice(listing.problems)
if not listing.runs:
    choice.empty_store()
    st.stop()
models, problems = family.read(listing.runs)
notice(problems)
if not models:
    st.info(f"No run here says where it comes from. {choice.MAKE_DATA} `make r1` makes all stages of R1.")
    st.stop()

picked = [run.key for run in choice.picked()]
related = {name for name, model in models.items() if model.run in picked}
for name in list(related):
    related |= set(family.ancestors(models, name))
related |= {name for name in models if related & set(family.ancestors(models, name))}
only = st.toggle("Only the family of the runs shown", value=bool(related), key="related", disabled=not related)
graph = {name: model for name, model in models.items() if not only or name in related}
st.graphviz_chart(family.dot(graph, next(iter(picked), None)))
st.caption(
    "Solid blue: a run of this store, a click leads to it. Dashed: from elsewhere, or its folder is gone. "
    "Thick: the run shown first."
)

order = list(graph)
st.markdown("Select a line: the run becomes the one that the other pages show.")
chosen = st.dataframe(
    pd.DataFrame([row(graph[name]) for name in order]),
    key="lineage_table",
    hide_index=True,
    placeholder="-",
    on_select="rerun",
    selection_mode="single-row",
)
selected = chosen["selection"]["rows"]
if not selected or selected[0] >= len(order):
    st.stop()
model = graph[order[selected[0]]]
st.subheader(f"{plain(model.stage)} {plain(model.id)}")
back = [f"{plain(graph[name].stage)} {plain(name)}" for name in family.ancestors(models, model.id) if name in graph]
st.markdown(
    "Comes from " + (" ← ".join(back) if back else "nothing known: it is a base, or was brought from elsewhere.")
)
if model.run is None or model.run not in listing.runs:
    st.info("Its run is not in this store.")
    st.stop()
saved = checkpoints(listing.runs[model.run])
st.caption(f"Checkpoints kept: {', '.join(map(plain, saved))}" if saved else "No checkpoint is kept.")


def show_run(key: str) -> None:
    """The run becomes the choice."""
    st.session_state["run"] = [key]


st.button(f"Show {plain(model.run)} on the other pages", on_click=show_run, args=(model.run,), type="primary")
