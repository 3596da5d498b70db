"""Review: the samples that `r1 datagen` made, one at a time, to accept or reject.

The one page that writes, and it writes one file: the decisions beside a sheet of the run store.
"""

import pandas as pd
import streamlit as st

from agents import sheet
from dashboard import sheets as sheets_of
from dashboard import store
from dashboard.shown import notice, plain, show_text
from infra.errors import R1Error

WORDS = {"accept": "✓ accepted", "reject": "✗ rejected", "": "- open"}
SHOWS = ("all", "open", "accepted", "rejected")
OF = {"open": "", "accepted": "accept", "rejected": "reject"}


def decide(decision: str) -> None:
    """Note it, and go on to the next one. A click may be older than what the page shows: the sample is looked up."""
    name = st.session_state["sample"]
    try:
        sheet.decide(sheets[chosen], name, decision)
    except (R1Error, OSError) as error:
        st.session_state["problem"] = str(error)
        return
    later = names[names.index(name) + 1 :] if name in names else []
    if later:
        st.session_state["sample"] = later[0]


st.title("Review")
sheets = sheets_of.sheets()
if not sheets:
    st.info(f"There is no sheet to review in {plain(store.root())}. `r1 datagen task=... url=...` makes one.")
    st.stop()
if st.session_state.get("sheet") not in sheets:
    st.session_state.pop("sheet", None)
chosen = st.selectbox("Sheet", list(sheets), key="sheet", bind="query-params")
if problem := st.session_state.pop("problem", None):
    notice([problem])
try:
    samples = {sample.id: sample for sample in sheet.read(sheets[chosen])}
except R1Error as error:
    notice([error])
    st.stop()

show = st.segmented_control("Samples", SHOWS, default="all", required=True, key="show", bind="query-params")
names = [name for name, sample in samples.items() if show == "all" or sample.decision == OF[show]]
counts = pd.Series([sample.decision for sample in samples.values()], dtype=object).value_counts()
told = ", ".join(f"{counts.get(decision, 0)} {word[2:]}" for decision, word in WORDS.items())
st.caption(f"{len(samples)} samples: {told}. Decisions are kept beside the sheet, which itself is not changed.")
if not names:
    st.info("No sample of this sheet is shown. Show all.")
    st.stop()
if st.session_state.get("sample") not in names:
    st.session_state["sample"] = next((name for name in names if not samples[name].decision), names[0])
name = st.selectbox("Sample", names, key="sample")
sample = samples[name]
show_text(f"{sample.query}\n\nLabel: {sample.label}")
st.text(WORDS[sample.decision])
with st.container(horizontal=True):
    st.button("Accept", key="accept", type="primary", on_click=decide, args=("accept",))
    st.button("Reject", key="reject", on_click=decide, args=("reject",))
    st.button("Take back", key="open", on_click=decide, args=("",), disabled=not sample.decision)
rows = [{"id": n, "decision": WORDS[s.decision], "label": s.label, "query": s.query} for n, s in samples.items()]
st.dataframe(pd.DataFrame(rows), hide_index=True)
