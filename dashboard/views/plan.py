"""Plan: what pre-training needs and costs on a cluster, as `r1 plan` works it out, in a form."""

import pandas as pd
import streamlit as st

from dashboard import controls, more_charts, planned
from dashboard.shown import plain
from infra.errors import ConfigError
from infra.planner import report
from infra.planner.config import Precision, Schedule
from infra.planner.hardware import GpuName
from infra.planner.plan import Plan
from infra.planner.plan import plan as work_out
from infra.planner.search import search

SIZES = {"tensor": "Tensor", "pipeline": "Pipeline", "virtual_pipeline": "Virtual stages", "expert": "Expert"}


def choose() -> tuple:
    """(the form's PlanConfig, whether the layout is searched). ConfigError where it cannot work."""
    top = st.columns(4)
    name = top[0].selectbox("Published cluster", planned.clusters(), key="cluster", bind="query-params")
    cluster, parallel, settings = planned.published(name)
    model = top[1].selectbox("Model", planned.MODELS, key="model", bind="query-params")
    gpus_known = [gpu.name for gpu in GpuName]
    # A key of its own for each cluster: its published values are where the form starts.
    gpu = top[2].selectbox("GPU", gpus_known, index=gpus_known.index(cluster.gpu.name), key=f"gpu/{name}")
    gpus = top[3].number_input("GPUs", 1, 100_000, cluster.gpus, key=f"gpus/{name}")
    second = st.columns(4)
    sizes = {
        size: second[i].number_input(label, 1, 4096, getattr(parallel, size), key=f"{size}/{name}")
        for i, (size, label) in enumerate(SIZES.items())
    }
    third = st.columns(4)
    tokens = third[0].number_input("Tokens, 10¹²", 0.001, 1000.0, settings.tokens / 1e12, key=f"tokens/{name}")
    batch = third[1].number_input("Rows of a step", 1, 1_000_000, settings.global_batch, key=f"batch/{name}")
    seq_len = third[2].number_input("Tokens of a row", 128, 1_048_576, settings.seq_len, key=f"seq/{name}")
    micro = third[3].number_input("Rows of a micro-batch", 1, 64, settings.micro_batch, key=f"micro/{name}")
    fourth = st.columns(4, vertical_alignment="bottom")
    precision = fourth[0].selectbox(
        "Precision",
        [p.name for p in Precision],
        index=[p for p in Precision].index(settings.precision),
        key=f"precision/{name}",
    )
    schedule = fourth[1].selectbox(
        "Schedule",
        [s.name for s in Schedule],
        index=[s for s in Schedule].index(settings.schedule),
        key=f"schedule/{name}",
    )
    searched = fourth[2].toggle("Search the layout", key="search", bind="query-params")
    changed = {
        "tokens": tokens * 1e12,
        "global_batch": batch,
        "seq_len": seq_len,
        "micro_batch": micro,
        "precision": Precision[precision],
        "schedule": Schedule[schedule],
    }
    if Precision[precision] is Precision.bf16:
        changed |= dict.fromkeys(("fp8_attention", "fp8_head", "fp8_dispatch", "fp8_swiglu_input"), False)
    asked = planned.config(model, cluster, parallel, settings, gpu=gpu, gpus=gpus, sizes=sizes, changed=changed)
    return asked, searched


@st.cache_data(show_spinner="Trying every layout …", max_entries=20)
def searched_plans(_asked, key: str) -> list[Plan]:
    """The fastest layouts; key: the question, written out."""
    return search(_asked)


def figures(result: Plan) -> None:
    """The answer in six numbers."""
    rows = (
        ("Tokens/s a GPU", f"{result.tokens_per_s_per_gpu:,.0f}"),
        ("MFU", f"{result.mfu:.1%}"),
        ("GPU hours", f"{result.gpu_hours_total / 1e6:,.3f} M"),
        ("Days", f"{result.days:,.1f}"),
        ("Dollars", f"{result.dollars / 1e6:,.3f} M"),
        ("Memory, fullest GPU", f"{result.memory.total:.1f} of {result.config.cluster.spec.memory_gib:.0f} GiB"),
    )
    for start in (0, 3):
        for column, (label, value) in zip(st.columns(3), rows[start : start + 3], strict=True):
            column.metric(label, value)


def drawn(result: Plan) -> None:
    """Memory and time by part."""
    parts = {name.replace("_", " "): gib for name, gib in result.memory.parts().items() if gib}
    memory = pd.DataFrame([*parts.items(), ("total", result.memory.total)], columns=["name", "value"])
    times = [(name, seconds) for name, seconds in result.step.share.items() if seconds / result.step.seconds > 1e-3]
    step = pd.DataFrame(times, columns=["name", "value"])
    room = result.config.cluster.spec.memory_gib
    controls.grid(
        [
            more_charts.bars(
                memory, f"Memory of the fullest GPU (dashed: {room:.0f} GiB)", "GiB", limit=room, form=".1f"
            ),
            more_charts.bars(step, f"Time of a step: {result.step.seconds:.2f} s", "seconds", form=".2f"),
        ]
    )


st.title("Plan")
st.caption(
    "Planned, not measured here: data sheets and others' measurements times one set of efficiencies, held against "
    "eighteen published runs (`r1 plan published=true`)."
)
try:
    asked, wanted = choose()
    plans = searched_plans(asked, repr(asked)) if wanted else [work_out(asked)]
except ConfigError as error:
    st.warning(plain(error), icon=":material/warning:")
    st.stop()
result = plans[0]
if not result.fits:
    st.warning("It does not fit: the fullest GPU needs more memory than it has.", icon=":material/memory:")
figures(result)
drawn(result)
if wanted:
    st.subheader("The fastest of all legal layouts that fit")
    st.code(report.runners_up(plans), language=None)
with st.expander("All of it, as `r1 plan` prints it"):
    st.code(report.table(result), language=None)
