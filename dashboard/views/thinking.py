"""Thinking: whether answers grow longer though nothing rewards length, and which ones do (R1 §2.2.4, fig. 3)."""

import streamlit as st

from dashboard import charts, choice, controls
from dashboard.charts import Figure

MEAN = Figure(
    "Mean length, training questions",
    "tokens",
    (("rl/response_tokens", "response"), ("rl/thinking_tokens", "thinking")),
)
BY_RESULT = Figure(
    "Response length of right and of wrong answers",
    "tokens",
    (("rl/response_tokens_correct", "right"), ("rl/response_tokens_wrong", "wrong")),
)
HELD_OUT = Figure(
    "Mean length, held-out questions",
    "tokens",
    (("eval/response_tokens", "response"), ("eval/thinking_tokens", "thinking")),
)
REFLECTION = Figure(
    "Answers with a self-check",
    "share of answers",
    (("rl/reflection_rate", "training questions"), ("eval/reflection_rate", "held-out questions")),
)
CUT = Figure(
    "Answers cut at the length limit",
    "share of answers",
    (("rl/truncated_frac", "training questions"), ("eval/truncated_frac", "held-out questions")),
)
GROWTH = (
    ("Response tokens", "rl/response_tokens", ".1f"),
    ("Thinking tokens", "rl/thinking_tokens", ".1f"),
    ("Answers with a self-check", "rl/reflection_rate", ".3f"),
    ("Accuracy", "rl/reward/accuracy", ".3f"),
)


def growth(frame) -> None:
    """Figures of one run: mean of its last five steps, and the change since its first five."""
    for column, (label, metric, form) in zip(st.columns(len(GROWTH)), GROWTH, strict=True):
        ends = charts.first_and_last(frame, metric)
        first, last = (f"{end:{form}}" for end in ends) if ends else ("-", "-")
        column.metric(label, last, delta=f"first five steps: {first}", delta_color="off", delta_arrow="off")


def page() -> None:
    """The chosen runs' lengths."""
    frames = choice.frames()
    drawn = [charts.curves(frames, figure, x=x, window=window) for figure in (MEAN, BY_RESULT, HELD_OUT)]
    if all(chart is None for chart in drawn):
        st.info(f"The chosen runs have logged no answers: R1-Zero runs do. {choice.MAKE_DATA}")
        return
    if len(frames) == 1:
        growth(next(iter(frames.values())))
    drawn += [charts.curves(frames, figure, x=x, window=window) for figure in (REFLECTION, CUT)]
    controls.grid(drawn)


st.title("Thinking length")
st.caption("No reward reads length or self-checks; both are only counted. A line ends where no answer was of its kind.")
choice.picked_or_stop()
x, window = controls.axis_and_smoothing()
choice.live(page)
