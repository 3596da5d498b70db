"""Model: whether experts are used evenly, how good MTP guesses, what cache and memory cost, how far FP8 is off."""

import pandas as pd
import streamlit as st

from dashboard import cache_sizes, charts, choice, controls, experts, more_charts, points, results, store
from dashboard.points import Figure
from dashboard.shown import notice, plain
from modeling.config import ModelConfig

MAXVIO = Figure(
    "Load of the busiest expert, mean of the layers", "above the mean, 1 = twice", (("moe/maxvio", "maxvio"),)
)
ACCEPTANCE = Figure(
    "Second tokens that MTP guessed right (V3 §5.4.3: 85 to 90 %)",
    "share",
    (("mtp/acceptance", "in training"), ("mtp/rollout_acceptance", "as drafter in rollouts")),
)
PARTS = ("policy", "reference", "critic", "optimizer", "gradients", "activations", "peak")
METRICS = (*MAXVIO.metrics, *ACCEPTANCE.metrics, *(f"memory/{part}_gib" for part in PARTS))
PRESET = "671b"


def show_experts(run: store.Run, frames: dict) -> None:
    """Balance of the experts (V3 §2.1.2)."""
    st.subheader("Experts")
    layers, unreadable = experts.read(run)
    if unreadable:
        notice([f"{run.key}: {unreadable} lines of experts.jsonl can't be read, left out."])
    if not layers:
        st.info(
            f"{plain(run.key)} kept no load of its experts: a dense model, or a run of before it was kept. "
            f"{choice.MAKE_DATA}"
        )
        controls.grid([charts.curves(frames, MAXVIO)])
        return
    uneven = experts.violations(layers)
    controls.grid([more_charts.violation_map(uneven[["step", "layer", "maxvio"]]), charts.curves(frames, MAXVIO)])
    names = list(layers)
    if st.session_state.get("layer") not in names:
        st.session_state.pop("layer", None)
    name = st.selectbox("Layer", names, key="layer", bind="query-params")
    cells = experts.cells(layers[name])
    controls.grid([more_charts.load_map(cells, name), more_charts.bias_lines(cells, name)])
    last = uneven[uneven["layer"] == name].iloc[-1]
    st.caption(
        f"{name}, step {last['step']}: the busiest expert has {1 + last['maxvio']:.2f} times the even share; biases "
        f"are up to {last['spread']:.4f} apart. The bias moves against the load (V3 §2.1.2), and no loss pushes it."
    )


def show_cache(run: store.Run) -> None:
    """What MLA saves (V3 §2.1.1)."""
    st.subheader("KV cache")
    own = cache_sizes.of_config(run.config)
    drawn = []
    if own is not None:
        drawn.append(cache_chart(own, f"of {run.key}"))
    drawn.append(cache_chart(ModelConfig.preset(PRESET), "of DeepSeek-V3 (671b)"))
    controls.grid(drawn)
    st.caption(
        "Computed from the shape: MHA of the same heads, GQA of a few shared ones, MQA of one (DeepSeek-V2, table 1)."
    )


def cache_chart(model: ModelConfig, whose: str) -> charts.Chart:
    """Bytes a token by kind of attention."""
    return more_charts.bars(cache_sizes.by_attention(model), f"KV cache {whose}", "bytes a token, BF16", form=",.0f")


def show_memory(frames: dict) -> None:
    """Memory by part, as measured in the first step."""
    drawn = []
    for key, frame in frames.items():
        rows = [(part, points.latest(frame, f"memory/{part}_gib")) for part in PARTS]
        rows = [(part, 1024 * value) for part, value in rows if value]
        if rows:
            data = pd.DataFrame(rows, columns=["name", "value"])
            drawn.append(more_charts.bars(data, f"Memory of {key}", "MiB of one rank", form=",.1f"))
    if drawn:
        st.subheader("Memory by part")
        controls.grid(drawn)
        st.caption("Measured in the first step; peak is all that the process held, the program itself included.")


def show_fp8() -> None:
    """FP8 against the reference, where it was measured (V3 §3.3, appendix B.1)."""
    st.subheader("FP8")
    try:
        found = results.read("fp8/loss.json")
    except results.Broken as error:
        notice([error])
        return
    if found is None:
        st.info(
            "FP8 has not been compared here: `.venv/bin/python -m experiments.fp8_loss` does it, and `make gpu-check` "
            "on a GPU."
        )
        return
    try:
        rows = [
            {"name": f"{name}, {on} loss"} | {key: float(values[on][key]) for key in ("mean", "least", "most")}
            for name, values in found["relative"].items()
            for on in ("train", "eval")
        ]
        limit, source = float(found["paper"]["below"]), str(found["paper"]["source"])
        within = found["within_paper"]
        said = f"{int(within['seeds'])} of {int(within['of'])} seeds stay within the paper's bound"
    except (KeyError, TypeError, ValueError):
        notice(["experiments/results/fp8/loss.json is not what experiments/fp8_loss.py writes."])
        return
    controls.show(more_charts.fp8_intervals(pd.DataFrame(rows).assign(limit=limit)))
    st.caption(
        f"{said} of ±{limit:.2%} ({plain(source)}; dashed). “rounding” differs from the reference in nothing but the "
        "order of its sums: what is not beyond it is noise."
    )


def page() -> None:
    """Everything, for the chosen runs."""
    frames = choice.frames(METRICS)
    show_experts(run, frames)
    acceptance = charts.curves(frames, ACCEPTANCE)
    st.subheader("Multi-token prediction")
    if acceptance is None:
        st.info("No acceptance was logged: pre-training does (`r1 pretrain`), and rollouts with MTP as drafter.")
    else:
        controls.grid([acceptance])
    show_cache(run)
    show_memory(frames)
    show_fp8()


st.title("Model")
runs = {run.key: run for run in choice.picked_or_stop()}
run = runs[st.selectbox("Run", list(runs)) if len(runs) > 1 else next(iter(runs))]
choice.live(page)
