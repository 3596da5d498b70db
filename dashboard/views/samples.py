"""Samples: what the model wrote at a step, a question's whole group side by side, with what each answer earned."""

import pandas as pd
import streamlit as st

from dashboard import choice, store
from dashboard.shown import card, marked, notice, plain, show_cards, show_text, text_block
from rl.reflection import self_checks

RESULTS = ("all", "right", "wrong", "cut")


def result(answer) -> str:
    """right, wrong, cut (not right, and the length limit ended it), or "-" where nobody judged it."""
    if answer.get("reward_accuracy") == 1.0:
        return "right"
    if answer["stopped"] is False:
        return "cut"
    return "-" if pd.isna(answer.get("reward_accuracy")) else "wrong"


def matches(answer) -> bool:
    """Whether an answer passes the filters."""
    return (
        (wanted == "all" or result(answer) == wanted)
        and (not only_checks or answer["reflects"] is True)
        and (not words or words.casefold() in (answer["text"] or "").casefold())
    )


def number(value, form: str = "g") -> str:
    """A number for people; "-" where it is missing."""
    return "-" if value is None or pd.isna(value) else f"{value:{form}}"


def facts(answer, parts: list[str]) -> list[str]:
    """The line above an answer."""
    breakdown = ", ".join(f"{part.removeprefix('reward_')} {number(answer[part])}" for part in parts) or "-"
    return [
        f"#{number(answer['group'], '.0f')} {result(answer)}",
        f"reward {number(answer['reward'], '.3g')} ({breakdown})",
        f"advantage {number(answer['advantage'], '+.2f')}",
        f"{number(answer['response_tokens'], '.0f')} tokens, {number(answer['thinking_tokens'], '.0f')} thinking",
    ]


def shown(answer, parts: list[str], fits: bool) -> str:
    """The card of an answer: its self-checks marked, as they are counted, inside the thinking only."""
    text = answer["text"] or ""
    start = text.find("<think>")
    end = text.find("</think>", start)
    body = marked(text, self_checks(text), words, start=max(start, 0), end=end if end >= 0 else None)
    return card(facts(answer, parts), text_block(body), result(answer), dimmed=not fits)


def choose_step(files: dict) -> int:
    """The step on the slider; the last one at first."""
    steps = list(files)
    if st.session_state.get("step") not in steps:
        st.session_state.pop("step", None)
    if len(steps) == 1:
        st.caption(f"Step {steps[0]}, the only one with samples so far.")
        return steps[0]
    return st.select_slider("Step", steps, value=steps[-1], key="step", bind="query-params")


def watch() -> None:
    """Draws nothing; a live run's new step gets a place on the slider."""
    if {kind: store.sample_files(run, kind) for kind in store.KINDS} != seen:
        st.rerun()


st.title("Samples")
runs = {run.key: run for run in choice.picked_or_stop()}
top = st.columns([2, 1], gap="large")
run = runs[top[0].selectbox("Run", list(runs)) if len(runs) > 1 else next(iter(runs))]
seen = {kind: store.sample_files(run, kind) for kind in store.KINDS}
choice.live(watch)
available = [kind for kind in store.KINDS if seen[kind]]
if not available:
    st.info(
        "This run has no samples here: pre-training writes none, R1-Zero writes them as it goes, and a run that is "
        f"known from MLflow only keeps them on its own machine. {choice.MAKE_DATA}"
    )
    st.stop()
kind = available[0]
if len(available) > 1:
    kind = top[1].segmented_control("Questions", available, default=kind, required=True, key="of", bind="query-params")
files = seen[kind]
step = choose_step(files)

left, middle, right = st.columns([3, 4, 2], vertical_alignment="bottom")
wanted = left.segmented_control("Answers", RESULTS, default="all", required=True, key="result", bind="query-params")
words = middle.text_input("Containing", key="contains", bind="query-params", placeholder="words in the answer")
only_checks = right.toggle("With a self-check", key="checks", bind="query-params")

try:
    answers = store.samples(files[step])
except store.Unreadable as error:
    notice([error])
    st.stop()
if answers.empty:
    st.info("The file of this step holds no answers.")
    st.stop()

answers["fits"] = [matches(answer) for answer in answers.to_dict("records")]
fitting = answers[answers["fits"]]
questions = list(dict.fromkeys(fitting["question_id"].fillna("-")))
asked_in_all = answers["question_id"].nunique(dropna=False)
st.caption(f"{len(fitting)} of {len(answers)} answers fit, to {len(questions)} of {asked_in_all} questions.")
if not questions:
    st.info("No answer of this step fits. Take a filter away, or look at another step.")
    st.stop()

if st.session_state.get("question") not in questions:
    st.session_state.pop("question", None)
question = st.selectbox("Question", questions, key="question", bind="query-params")
group = answers[answers["question_id"].fillna("-") == question]
parts = [name for name in group.columns if name.startswith("reward_")]
asked = group.iloc[0]
st.markdown(
    f"**Asked** · task {plain(asked['task'] or '-')} · a right answer, for you: {plain(asked['answer_key'] or '-')}"
)
show_text(asked["prompt"] or "-")
st.markdown(f"**Answered** · {group['fits'].sum()} of {len(group)} fit the filters; those that do not are pale")
if group["reward"].nunique() == 1 and len(group) > 1:
    st.caption("All rewards of this group are equal: it teaches nothing in this step.")
order = group.sort_values(["fits", "group"], ascending=[False, True], kind="stable")
show_cards(shown(answer, parts, answer["fits"]) for answer in order.to_dict("records"))
