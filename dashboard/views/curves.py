"""Curves: everything a run logged against steps or tokens, raw values pale behind their moving mean."""

import streamlit as st

from dashboard import charts, choice, controls
from dashboard.charts import Figure
from dashboard.controls import grid

HELD_OUT, LEARNING, SPEED, OTHER = ("Held-out questions", "Learning", "Speed", "Everything else")
FIGURES = {
    "Reward and answers": [
        Figure(
            "Reward on training questions",
            "mean",
            (("rl/reward/mean", "reward"), ("rl/reward/accuracy", "accuracy"), ("rl/reward/format", "format")),
        ),
        Figure(
            "Response length (nothing rewards it)",
            "tokens",
            (("rl/response_tokens", "response"), ("rl/thinking_tokens", "thinking")),
        ),
        Figure(
            "Response length by result",
            "tokens",
            (("rl/response_tokens_correct", "right answers"), ("rl/response_tokens_wrong", "wrong answers")),
        ),
        Figure("Reflection rate", "share of answers", (("rl/reflection_rate", "answers with a self-check"),)),
        Figure(
            "Truncated and zero-variance",
            "share",
            (("rl/truncated_frac", "cut at the limit"), ("rl/zero_variance_frac", "groups of equal rewards")),
        ),
    ],
    LEARNING: [
        Figure("Entropy of the sampler", "nats a token", (("rl/entropy", "entropy"),)),
        Figure("KL", "nats a token", (("rl/policy_kl", "to the sampling policy"), ("rl/kl", "to the reference"))),
        Figure("Clipped tokens", "share", (("rl/clip_frac", "clipped"),)),
        Figure("Sampler against trainer", "difference of logprobs", (("rl/sampler_trainer_diff", "difference"),)),
        Figure("Loss", "loss", (("train/loss", "loss"),), zero=False),
        Figure("Gradient norm", "norm", (("train/grad_norm", "gradient"),)),
        Figure("Learning rate", "rate", (("train/lr", "learning rate"),)),
        Figure("Load of the busiest expert", "above the mean, 1 = twice", (("moe/maxvio", "maxvio"),)),
    ],
    SPEED: [
        Figure("Training speed", "tokens/s", (("train/tokens_per_s", "tokens/s"),)),
        Figure(
            "Time of a step",
            "seconds",
            tuple(
                (f"time/{part}_s", part)
                for part in ("step", "rollout", "reward", "logprobs", "update", "sync", "evaluate", "save")
            ),
        ),
    ],
}


def held_out(frames: dict) -> list[Figure]:
    """Figures of what was measured on held-out questions."""
    return [
        Figure("pass@1, 95 % interval", "share right", charts.held_out(frames, "pass_at_1")),
        Figure("pass@k and majority@k", "share right", charts.held_out(frames, r"(?:pass_at_(?!1$)|majority_at_)\d+")),
        Figure("Length", "tokens", (("eval/response_tokens", "response"), ("eval/thinking_tokens", "thinking"))),
        Figure(
            "Kinds of answers",
            "share of answers",
            (
                ("eval/format_rate", "right format"),
                ("eval/reflection_rate", "with a self-check"),
                ("eval/truncated_frac", "cut at the limit"),
            ),
        ),
    ]


def other(frames: dict, drawn: set[str]) -> list[Figure]:
    """A plain figure for each metric that no figure above draws."""
    names = {name for frame in frames.values() for name in frame.columns} - drawn - {"step", "tokens", "time"}
    names = {n for n in names if not n.endswith(("_low", "_high")) or n.rpartition("_")[0] not in drawn}
    return [Figure(name, "", ((name, name),), zero=False) for name in sorted(names)]


def page() -> None:
    """All charts that have data, by section."""
    frames = choice.frames()
    if all(frame.empty for frame in frames.values()):
        st.info(f"The chosen runs have logged nothing yet. {choice.MAKE_DATA}")
        return
    without = [key for key, frame in frames.items() if frame[x].notna().sum() == 0]
    if without and x == "tokens":
        st.info(f"{len(without)} of the chosen runs logged no token count; only their steps can be drawn.")

    pass_at_1, *others = measured = held_out(frames)
    drawn = {m for figures in (measured, *FIGURES.values()) for figure in figures for m in figure.metrics}
    sections = {HELD_OUT: [charts.intervals(frames, pass_at_1, x=x), *(charts.curves(frames, f, x=x) for f in others)]}
    for name, figures in FIGURES.items():
        sections[name] = [charts.curves(frames, figure, x=x, window=window) for figure in figures]
    for name, section in sections.items():
        if any(chart is not None for chart in section):
            st.subheader(name)
            grid(section)
    if rest := other(frames, drawn):
        with st.expander(f"{OTHER} ({len(rest)})"):
            grid(charts.curves(frames, figure, x=x, window=window) for figure in rest)


st.title("Learning curves")
choice.picked_or_stop()
x, window = controls.axis_and_smoothing()
choice.live(page)
