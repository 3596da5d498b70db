"""Claims: what the papers say, what came out here, over how many seeds, and the command that makes it again."""

import pandas as pd
import streamlit as st

from dashboard import results
from dashboard.shown import notice, plain, show_text

TABLE = "claims/table.json"
VERDICTS = {"reproduced": "✓ reproduced", "not reproduced": "✗ not reproduced", "inconclusive": "◌ inconclusive"}


def text(value: object) -> str | None:
    """Text for a cell; None is shown as "-"."""
    return None if value in (None, "", []) else str(value)


def figure(value: float | None) -> str:
    """Four digits are enough."""
    return "-" if value is None else f"{value:.4g}"


def ours(claim: dict) -> str | None:
    """Our figure with its interval."""
    found = claim.get("ours") if isinstance(claim.get("ours"), dict) else {}
    mean, low, high = (results.number(found.get(key)) for key in ("mean", "low", "high"))
    if mean is None:
        return None
    return figure(mean) if low is None or high is None else f"{figure(mean)} [{figure(low)}, {figure(high)}]"


def row(claim: dict) -> dict:
    """A line of the table."""
    seeds = claim.get("seeds")
    cost = results.number(claim.get("cost_s"))
    verdict = text(claim.get("verdict"))
    return {
        "claim": text(claim.get("title")) or text(claim.get("id")),
        "source": text(claim.get("source")),
        "paper": text(claim.get("paper")),
        "ours": ours(claim),
        "seeds": str(len(seeds) if isinstance(seeds, list) else seeds) if seeds else None,
        "verdict": VERDICTS.get(verdict or "", verdict),
        "scale": text(claim.get("scale")),
        "minutes": f"{cost / 60:,.0f}" if cost is not None else None,
        "id": text(claim.get("id")),
    }


def show_claim(claim: dict) -> None:
    """All of one claim: the command, and each rule's interval."""
    st.markdown(f"**{plain(text(claim.get('title')) or '-')}** · {plain(text(claim.get('source')) or '-')}")
    left, right = st.columns(2)
    for column, label, value in (
        (left, "Paper", text(claim.get("paper"))),
        (right, f"Ours: {plain(text(claim.get('quantity')) or 'mean and 95 % interval')}", ours(claim)),
    ):
        with column:
            st.caption(label)
            show_text(value or "-")
    st.caption("Made again by")
    st.code(text(claim.get("command")) or "-", language=None)
    rules = [rule for rule in claim.get("rules") or [] if isinstance(rule, dict)]
    if rules:
        cells = [{key: text(value) for key, value in rule.items() if not isinstance(value, dict)} for rule in rules]
        st.dataframe(pd.DataFrame(cells), hide_index=True, placeholder="-")
    for key in ("reason", "note"):
        if text(claim.get(key)):
            st.caption(key.capitalize())
            show_text(str(claim[key]))


st.title("Claims")
st.caption("Verdicts are computed from seeds by rules that were fixed beforehand. What fails is here, too.")
try:
    table = results.read(TABLE)
except results.Broken as error:
    notice([error])
    st.stop()
claims = [claim for claim in table if isinstance(claim, dict)] if isinstance(table, list) else []
if not claims:
    st.info(f"No claim has been measured yet: there is no experiments/results/{TABLE}. `make claims` makes it.")
    st.stop()

rows = pd.DataFrame([row(claim) for claim in claims])
counts = rows["verdict"].fillna("-").value_counts()
st.caption(f"{len(rows)} claims: " + ", ".join(f"{plain(verdict)} {count}" for verdict, count in counts.items()))
left, right = st.columns([2, 3], vertical_alignment="bottom")
options = ["all", *dict.fromkeys(rows["verdict"].dropna())]
if st.session_state.get("verdict") not in options:
    st.session_state.pop("verdict", None)
wanted = left.selectbox("Verdict", options, key="verdict", bind="query-params")
words = right.text_input("Containing", key="claim_words", bind="query-params", placeholder="claim or source")
fits = pd.Series(True, index=rows.index) if wanted == "all" else rows["verdict"] == wanted
if words:
    joined = rows[["claim", "source", "id"]].fillna("").agg(" ".join, axis=1).str.casefold()
    fits &= joined.str.contains(words.casefold(), regex=False)
order = ["id", "verdict", "claim", "ours", "paper", "source"]  # what a reader came for, before it leaves the screen
st.dataframe(rows[fits][[*order, *rows.columns.difference(order, sort=False)]], hide_index=True, placeholder="-")
if not fits.any():
    st.info("No claim fits.")
    st.stop()
ids = [str(value) for value in rows.loc[fits, "id"].fillna("-")]
if st.session_state.get("claim") not in ids:
    st.session_state.pop("claim", None)
chosen = st.selectbox("Claim", ids, key="claim", bind="query-params")
show_claim(next(claim for claim, one in zip(claims, rows["id"].fillna("-"), strict=True) if str(one) == chosen))
