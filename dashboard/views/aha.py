"""Aha: candidates by three fixed rules, their rate through training against the start's own, and a random draw."""

import pandas as pd
import streamlit as st

from dashboard import answer_cards as told
from dashboard import choice, controls, more_charts, rates, store
from dashboard.answer_filter import result
from dashboard.shown import card, marked, notice, plain, show_cards, text_block
from rl.aha import MEANING, RULES, judge

# Comments, as Streamlit shows a text that stands alone.
STEPS = 40  # that are judged, evenly spread: each answer of them
DRAWN = 6
AROUND = 700  # characters around what a rule found that a card shows


def percent(value: float | None) -> str:
    """For people; "-" where there is none."""
    return "-" if value is None else f"{value:.1%}"


def table(now: pd.DataFrame, start: pd.DataFrame | None, step: int) -> pd.DataFrame:
    """A line a rule: the start's rate, the step's, what that tells, and how many of them ended right."""
    rows = []
    for rule in RULES:
        one, base = rates.rate(now, rule), rates.rate(start, rule) if start is not None else None
        rows.append(
            {
                "rule": rule,
                "start (step 0)": rates.told(base),
                f"step {step}": rates.told(one),
                "so": rates.compared(one, base) if one and base else "-",
                "of these ended right": percent(one.right_share if one else None),
                "start's ended right": percent(base.right_share if base else None),
                "met when": MEANING[rule],
            }
        )
    return pd.DataFrame(rows)


def context(text: str, right: bool) -> str:
    """What the rules found, highlighted, with text on both sides of it."""
    aha = judge(text, right)
    first = min([aha.before[0] if aha.before else len(text), *(start for start, _ in aha.checks[:1])])
    start, end = max(0, first - AROUND // 2), first + AROUND
    places = [(*span, "r1-check") for span in aha.checks] + ([(*aha.before, "r1-before")] if aha.before else [])
    inside = [(a - start, b - start, kind) for a, b, kind in places if start <= a and b <= end]
    body = marked(text[start:end], places=inside)
    more = '<span class="r1-note">[…]</span>'
    return text_block((more if start else "") + body + (more if end < len(text) else ""))


def show_draw(judged: dict[int, pd.DataFrame], files: dict, run: store.Run, kind: str) -> None:
    """Candidates by chance, never picked."""
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    rule = left.segmented_control("Rule", RULES, default="changed", required=True, key="rule", bind="query-params")
    seed = right.number_input("Seed of the draw", 0, 9999, 0, key="seed", bind="query-params")
    trained = {step: frame for step, frame in judged.items() if step > 0}
    places, count = rates.drawn(trained, rule, DRAWN, seed)
    if not places:
        st.info(f"No answer after the start meets the rule “{rule}” ({MEANING[rule]}).")
        return
    st.caption(
        f"{len(places)} of {count:,} answers that meet it, drawn by chance with seed {seed}, from all steps judged. "
        "Marked: self-check words; struck through: the result that did not stay."
    )
    cards = []
    for step, row in places:
        answer = store.samples(files[step]).iloc[row]
        text, outcome = answer["text"] or "", result(answer)
        head = [f"step {step}", outcome, str(answer["question_id"] or "-")]
        head += [f"a right answer: {answer['answer_key'] or '-'}"]
        link = f"samples{told.link(run.key, kind, step, answer['question_id'] or '-', answer)}"
        cards.append(card(head, context(text, outcome == "right"), outcome, link=link))
    show_cards(cards)


def watch() -> None:
    """Draws nothing; a live run's new steps are taken in."""
    if {kind: store.sample_files(run, kind) for kind in store.KINDS} != seen:
        st.rerun()


st.title("Aha moments")
st.caption(
    "A word such as “wait” proves nothing: base models write it, too. Every answer is judged by the same three rules, "
    "and their rate is held against that of the model the run started from. No reward reads them."
)
runs = {run.key: run for run in choice.picked_or_stop()}
top = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
run = runs[top.selectbox("Run", list(runs), width=320) if len(runs) > 1 else next(iter(runs))]
seen = {kind: store.sample_files(run, kind) for kind in store.KINDS}
choice.live(watch)
available = [kind for kind in ("held-out", "training") if seen[kind]]
if not available:
    st.info(f"This run has no answers here: R1-Zero runs write them. {choice.MAKE_DATA}")
    st.stop()
kind = available[0]
if len(available) > 1:
    kind = top.segmented_control("Questions", available, default=kind, required=True, key="of", bind="query-params")
files = seen[kind]
looked = told.spread(list(files), STEPS)
judged = {}
for step in looked:
    try:
        judged[step] = rates.judged(files[step])
    except store.Unreadable as error:
        notice([error])
judged = {step: frame for step, frame in judged.items() if len(frame)}
if not judged:
    st.info("None of this run's answers can be read.")
    st.stop()
start = judged.get(0)
who = "the base model" if run.stage == "zero" else "the model that this run started from"
if start is None:
    st.info("Answers of step 0 are not here, so there is no rate of the start to hold these against.")
step = max(judged)
st.caption(
    f"{sum(map(len, judged.values())):,} answers of {len(judged)} of {len(files)} steps, {plain(kind)} questions. "
    f"Start: {who}. Intervals are 95 %, with questions resampled."
)
st.dataframe(table(judged[step], start, step), hide_index=True)
through = rates.through_training(judged)
base = {}
if start is not None:
    for rule in RULES:
        one = rates.rate(start, rule)
        base[rule] = (one.share, one.low, one.high)
if len(judged) > 1:
    controls.grid(more_charts.rate_against_base(through, base, rule) for rule in RULES)
st.subheader("Drawn by chance")
show_draw(judged, files, run, kind)
