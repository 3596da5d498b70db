"""Thinking: whether answers grow longer though nothing rewards length, and which ones do (R1 §2.2.4, fig. 3)."""

import itertools
from collections.abc import Iterator

import pandas as pd
import streamlit as st

from dashboard import charts, choice, controls, lengths, points, store
from dashboard.config_diff import setting
from dashboard.points import Figure
from dashboard.shown import notice

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
BUDGET = Figure(
    "Accuracy against thinking budget",
    "pass@1, 95 % interval",
    (("thinking cut", "thinking cut"), ("own length, mean", "own length, mean")),
)
FIGURES = (MEAN, BY_RESULT, HELD_OUT, REFLECTION, CUT)
METRICS = [metric for figure in FIGURES for metric in figure.metrics] + [metric for _, metric, _ in GROWTH]


def growth(frame: pd.DataFrame) -> None:
    """Figures of one run: mean of its last five steps, and the change since its first five."""
    with st.container(horizontal=True, gap="medium"):
        for label, metric, form in GROWTH:
            ends = points.first_and_last(frame, metric)
            first, last = (f"{end:{form}}" for end in ends) if ends else ("-", "-")
            delta = f"first five steps: {first}"
            st.metric(label, last, delta=delta, delta_color="off", delta_arrow="off", width=210)


def from_samples(runs: list[store.Run]) -> Iterator[charts.Chart | None]:
    """Length through training and accuracy against length, of the answers that the runs kept."""
    found, problems, unread = {}, [], False
    for run in runs:
        files = store.sample_files(run, "training")
        unread |= len(files) > lengths.STEPS
        found[run.key], trouble = lengths.answers(files)
        problems += trouble
    if unread:
        st.caption(f"Of runs with more steps, the answers of {lengths.STEPS} evenly spread steps are read.")
    notice(problems[:3] + [f"{len(problems) - 3} more files of samples can't be read."] * (len(problems) > 3))
    limits = {setting(run.config, "sampling.max_response_tokens") for run in runs}
    limit = limits.pop() if len(limits) == 1 and length == "response" else None
    split = Figure(
        f"{length.capitalize()} length by result",
        "tokens, p10 - median - p90",
        _series("correct", "wrong", "truncated"),
    )
    every = Figure(f"{length.capitalize()} length", "tokens, p10 - median - p90", _series(lengths.ALL))
    right = Figure(f"Accuracy against {length} length", "share right, 95 % interval", _series("accuracy"))

    def rows(made) -> pd.DataFrame:
        parts = [part for key, answers in found.items() if len(part := made(answers, key, length))]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    yield charts.spread(rows(lambda *a: lengths.through_training(*a, split=False)), every, limit=limit)
    yield charts.spread(rows(lambda *a: lengths.through_training(*a, split=True)), split, limit=limit)
    yield charts.measured(rows(lengths.accuracy_by_length), right, "length")


def _series(*labels: str) -> tuple[tuple[str, str], ...]:
    return tuple((label, label) for label in labels)


def budgets(runs: list[store.Run]) -> charts.Chart | None:
    """Accuracy at the thinking budgets that `r1 evaluate` was asked for, of the chosen runs."""
    parts, problems = [], []
    for path, asked in lengths.budgets():
        for run in runs:
            own = run.folder is not None and path.parent.is_relative_to(run.folder)
            of_it = run.folder is not None and asked is not None and asked.is_relative_to(run.folder.resolve())
            if own or of_it:
                try:
                    parts.append(lengths.budget_of(path, run.key))
                except store.Unreadable as error:
                    problems.append(error)
    notice(problems)
    return charts.measured(pd.concat(parts, ignore_index=True), BUDGET, "budget") if parts else None


def page() -> None:
    """The chosen runs' lengths."""
    runs = choice.picked()
    frames = choice.frames(METRICS)
    if len(frames) == 1 and len(frame := next(iter(frames.values()))):
        growth(frame)
    budget = budgets(runs)
    shown = controls.grid(itertools.chain(from_samples(runs), [budget]))
    below = controls.grid((view.draw(frames, figure) for figure in FIGURES), below=shown >= controls.FOLD)
    if shown + below == 0:
        st.info(f"The chosen runs have logged no answers: R1-Zero runs do. {choice.MAKE_DATA}")
    elif budget is None:
        st.caption(
            "Accuracy against thinking budget: `.venv/bin/r1 evaluate evaluate.checkpoint=runs/<run> "
            "evaluate.budget=[0,64,128,256]` measures it."
        )


st.title("Thinking length")
st.caption("No reward reads length or self-checks; both are only counted. A line ends where no answer was of its kind.")
choice.picked_or_stop()
view = controls.view()
length = st.segmented_control(
    "Length of the", list(lengths.LENGTHS), default="response", required=True, key="length", bind="query-params"
)
choice.live(page)
