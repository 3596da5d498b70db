"""A plan for people: the table in the terminal and the bar chart."""

from pathlib import Path

from infra.planner.efficiency import EFFICIENCY, Efficiency
from infra.planner.plan import Plan, plan
from infra.planner.published import PUBLISHED, Published
from training.layout import written_out

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe-Ito: told apart by colour-blind readers


def table(result: Plan) -> str:
    """Everything a plan says, in lines."""
    cfg, layout, memory = result.config, result.layout(), result.memory
    settings, cluster, step = cfg.settings, cfg.cluster, result.step
    mtp = f", {result.params_mtp / 1e9:.1f}B more in MTP" if result.params_mtp else ""
    sizes = " ".join(f"{key}={layout[key]}" for key in ("tensor", "pipeline", "virtual_pipeline", "expert", "context"))
    copies = f"data {layout['data']}, expert data {layout['expert_data']}"
    batch = f"{layout['micro_batches']} x {layout['micro_batch']} rows of {settings.seq_len} per data rank"
    recompute = ", ".join(layout["recompute"]) or "nothing"
    blocks = [
        [
            ("cluster", f"{cluster.gpus} {cluster.gpu.name.upper()}, {settings.precision.name.upper()}"),
            ("parameters", f"{result.params_total / 1e9:.1f}B, {result.params_active / 1e9:.2f}B active{mtp}"),
            ("KV cache", f"{result.kv_bytes_per_token:,} bytes a token"),
            ("layout", f"{sizes} ({copies})"),
            ("stages", _folded(layout["stages"])),
            ("schedule", f"{layout['schedule']}, {batch}"),
            ("recomputed", recompute),
        ],
        [("memory", "GiB on the fullest GPU")]
        + [(f"  {name.replace('_', ' ')}", f"{gib:8.1f}") for name, gib in memory.parts().items()]
        + [
            (
                "  total",
                f"{memory.total:8.1f} of {cluster.spec.memory_gib:.1f}{'' if result.fits else ': DOES NOT FIT'}",
            )
        ],
        [("step", f"{step.seconds:.2f} s for {settings.global_batch * settings.seq_len / 1e6:.1f}M tokens")]
        + [(f"  {name}", f"{s:8.2f} s {s / step.seconds:6.1%}") for name, s in step.share.items() if s > 0]
        + [("  all-to-all hidden", f"{1 - step.exposed_dispatch:17.1%}")] * settings.overlap_dispatch,
        _traffic_rows(result),
        [
            ("throughput", f"{result.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, {result.tflops_per_gpu:,.0f} TFLOPS/GPU"),
            ("MFU", f"{result.mfu:.1%} of the BF16 peak"),
        ],
        _cost_rows(result),
    ]
    return "\n\n".join(_rows(block) for block in blocks)


def _traffic_rows(result: Plan) -> list[tuple[str, str]]:
    traffic, rate = result.traffic, result.tokens_per_s_per_gpu
    rows = [("traffic", "sent by one GPU")]
    for name, per_token in (
        ("all-to-all, network", traffic.all_to_all_network),
        ("all-to-all, NVLink", traffic.all_to_all_nvlink),
        ("tensor, NVLink", traffic.tensor_nvlink),
    ):
        if per_token:
            rows.append(
                (f"  {name}", f"{per_token / 1e6:8.2f} MB a token, {per_token * rate / 1e9:.1f} GB/s on average")
            )
    rows.append(("  data parallel", f"{traffic.data_parallel / 1e9:8.2f} GB a step"))
    if traffic.pipeline_hop:
        rows.append(("  pipeline", f"{traffic.pipeline_hop / 1e6:8.2f} MB a micro-batch and hop"))
    return rows


def _cost_rows(result: Plan) -> list[tuple[str, str]]:
    settings, price = result.config.settings, result.config.cluster.dollars_per_gpu_hour
    rows = [
        ("pre-training", f"{settings.tokens / 1e12:.4g}T tokens: {_hours(result.gpu_hours)}, {result.days:.1f} days")
    ]
    for name, hours in (
        ("context extension", settings.context_extension_gpu_hours),
        ("post-training", settings.post_training_gpu_hours),
    ):
        if hours:
            rows.append((name, _hours(hours)))
    in_all = f"{_hours(result.gpu_hours_total)}, ${result.dollars / 1e6:,.3f}M at ${price:.2f} an hour"
    return [*rows, ("in all", f"{in_all}, no failures counted")]


def _hours(hours: float) -> str:
    return f"{hours / 1e6:.3f}M GPU hours" if hours >= 1e6 else f"{hours / 1e3:.1f}K GPU hours"


def runners_up(plans: list[Plan]) -> str:
    """What the search found, a line each."""
    head = ("tensor", "pipeline", "virtual", "expert", "micro-batch", "recomputed", "GiB", "tokens/s/GPU")
    rows = [head]
    for result in plans:
        layout = result.layout()
        keys = ("tensor", "pipeline", "virtual_pipeline", "expert", "micro_batch")
        recompute = "+".join(layout["recompute"]) or "-"
        speed = f"{result.tokens_per_s_per_gpu:,.0f}"
        rows.append((*(str(layout[key]) for key in keys), recompute, f"{result.memory.total:.0f}", speed))
    return _columns(rows)


def compare(efficiency: Efficiency = EFFICIENCY) -> list[tuple[Published, Plan, float]]:
    """(row, its plan, planned over published throughput) of every published run."""
    results = []
    for row in PUBLISHED:
        planned = plan(row.config, efficiency)
        results.append((row, planned, planned.tokens_per_s_per_gpu / row.tokens_per_s))
    return results


def compare_table(results: list[tuple[Published, Plan, float]]) -> str:
    """Planned against published, a line each; `fit` rows set the efficiencies, `test` rows were left out of the fit."""
    rows = [("run", "GPUs", "TP/PP/VP/EP", "planned", "published", "ratio", "MFU", "GiB", "", "source")]
    for row, planned, ratio in results:
        p = row.parallel
        sizes = f"{p.tensor}/{p.pipeline}/{p.virtual_pipeline}/{p.expert}"
        speeds = (f"{planned.tokens_per_s_per_gpu:,.0f}", f"{row.tokens_per_s:,.0f}", f"{ratio:.2f}")
        room = f"{planned.memory.total:.0f}/{row.cluster.spec.memory_gib:.0f}"
        kind = "fit" if row.fitted else "test"
        rows.append((row.name, str(row.cluster.gpus), sizes, *speeds, f"{planned.mfu:.1%}", room, kind, row.source))
    return f"Tokens/s/GPU of DeepSeek-V3, one set of efficiencies.\n\n{_columns(rows)}"


def draw(result: Plan, path: Path) -> Path:
    """Two bar charts side by side: memory by part against the GPU's, and the step by what its time goes to."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cfg, layout = result.config, result.layout()
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    parts = {name.replace("_", " "): gib for name, gib in result.memory.parts().items() if gib}
    parts["total"] = result.memory.total
    available = cfg.cluster.spec.memory_gib
    _bars(left, parts, "%.1f", [BLUE] * (len(parts) - 1) + [BLUE if result.fits else ORANGE])
    left.axvline(available, color=GREY, linestyle="--", zorder=0)
    left.set_xlim(0, 1.18 * max(available, result.memory.total))
    left.set(xlabel=f"GiB (dashed: a GPU has {available:.0f})", title="Memory on the fullest GPU")
    times = {name: seconds for name, seconds in result.step.share.items() if seconds / result.step.seconds > 1e-3}
    _bars(right, times, "%.2f", [BLUE] * len(times))
    right.margins(x=0.15)
    right.set(xlabel="seconds", title=f"Time of a step: {result.step.seconds:.2f} s")
    sizes = "/".join(str(layout[key]) for key in ("tensor", "pipeline", "virtual_pipeline", "expert"))
    speed = f"{result.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, MFU {result.mfu:.1%}"
    title = (
        f"{result.params_total / 1e9:.0f}B on {cfg.cluster.gpus} {cfg.cluster.gpu.name.upper()}, TP/PP/VP/EP {sizes}"
    )
    fig.suptitle(f"{title}: {speed}, ${result.dollars / 1e6:.3f}M", fontsize=11)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    plt.close(fig)
    return path


def _bars(ax, values: dict[str, float], number: str, colours: list[str]) -> None:
    """Horizontal bars, the first on top, each with its figure."""
    bars = ax.barh(list(values), list(values.values()), color=colours)
    for label in ax.bar_label(bars, fmt=number, padding=3, fontsize=9):
        label.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.5))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)


def _folded(stages: str) -> str:
    """A layout string with equal neighbours counted: "Etttt|tttt|tttt|tmL" -> "E tttt | 2 x tttt | tmL"."""
    runs: list[list] = []
    for stage in written_out(stages):
        if runs and runs[-1][0] == stage:
            runs[-1][1] += 1
        else:
            runs.append([stage, 1])
    return " | ".join(f"{number} x {stage}" if number > 1 else stage or "-" for stage, number in runs)


def _rows(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<22}{value}".rstrip() for name, value in rows)


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
