"""From the arms' records to what fired, how early, and what became of learning."""

import math
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.figures import BLUE, GREEN, GREY, ORANGE, plt
from rl.alarms import ALARMS, Alarm

METRICS = (
    "rl/sampler_trainer_diff",
    "rl/sampler_trainer_kl",
    "rl/sampler_trainer_far_frac",
    "rl/surprisal_gap",
    "rl/surprisal_z",
    "rl/staleness",
    "rl/clip_frac",
)
"What is held against the baseline; the last two are there to show that they do not see these faults."


def summary(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Arm -> runs (a seed each, in the same order)  becomes  arm -> metrics, alarms and learning.

    `metrics`: least, mean and most of the size over all steps and seeds. `alarms`: first step above the level in each
    seed, null where never. `pass_at_1`: the end's, `against_baseline` the difference of each seed to that of `none`.
    """
    out = {}
    for name, runs in arms.items():
        values = {m: [abs(s[m]) for run in runs for s in run["steps"] if m in s] for m in METRICS}
        ends = [run["end"]["pass_at_1"]["mean"] for run in runs]
        pairs = zip(ends, arms["none"], strict=True)
        out[name] = {
            "metrics": {m: {"least": min(v), "mean": mean(v), "most": max(v)} for m, v in values.items() if v},
            "alarms": {a.name: [first(a, run["steps"]) for run in runs] for a in ALARMS},
            "pass_at_1": ends,
            "against_baseline": [end - base["end"]["pass_at_1"]["mean"] for end, base in pairs],
            "train_reward_last_quarter": [mean(_last_quarter(run["steps"])) for run in runs],
            "response_tokens": [run["end"]["response_tokens"] for run in runs],
        }
    return out


def first(alarm: Alarm, steps: list[dict[str, float]]) -> int | None:
    """The first step, from 1, at which the alarm is told."""
    sizes = _sizes(alarm, steps)
    return next((i for i, size in enumerate(sizes, 1) if size > alarm.level), None)


def _last_quarter(steps: list[dict[str, float]]) -> list[float]:
    return [step["rl/reward/accuracy"] for step in steps[-max(1, len(steps) // 4) :]]


def table(found: dict[str, Any]) -> str:
    """A line an arm."""
    rows = [("fault", "diff", "far", "|z|", "first alarms (step)", "pass@1 at the end", "against none")]
    for name, arm in found.items():
        m = {key: arm["metrics"].get(key, {"mean": 0.0})["mean"] for key in METRICS}
        fired = {k: [s for s in v if s] for k, v in arm["alarms"].items()}
        said = ", ".join(f"{key} ({min(steps)})" for key, steps in fired.items() if steps) or "-"
        rows.append(
            (
                name,
                f"{m['rl/sampler_trainer_diff']:.1e}",
                f"{m['rl/sampler_trainer_far_frac']:.1e}",
                f"{m['rl/surprisal_z']:.1f}",
                said,
                f"{mean(arm['pass_at_1']):.3f}",
                " ".join(f"{d:+.3f}" for d in arm["against_baseline"]),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _sizes(alarm: Alarm, steps: list[dict[str, float]]) -> list[float]:
    """What is held against the alarm's level in each step; NaN where nothing was measured, all groups being right."""
    sizes = iter(alarm.sizes([step[alarm.metric] for step in steps if alarm.metric in step]))
    return [next(sizes) if alarm.metric in step else math.nan for step in steps]


def draw(arms: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """Two metrics by step with their alarm levels, and pass@1 at the end, of every arm."""
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.6))
    for ax, metric in zip(axes, ("rl/sampler_trainer_diff", "rl/surprisal_z"), strict=False):
        alarms = [a for a in ALARMS if a.metric == metric]
        for number, (name, runs) in enumerate(arms.items()):
            by_run = [_sizes(alarms[0], run["steps"]) for run in runs]
            values = [mean(step) for step in zip(*by_run, strict=True)]
            colour = plt.cm.tab10((number - 1) % 10)
            style = dict(color="black", linewidth=2.5) if name == "none" else dict(color=colour)
            ax.plot(range(1, len(values) + 1), [max(v, 1e-7) for v in values], label=name, **style)
        for alarm in alarms:
            ax.axhline(alarm.level, color=GREY, linestyle="--", label=f"alarm `{alarm.name}`")
        ax.set(title=metric, xlabel="step", yscale="log")
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("size, mean over seeds")
    axes[1].legend(frameon=False, fontsize=7, ncols=2)

    names = list(arms)[::-1]
    for y, name in enumerate(names):
        for run in arms[name]:
            end = run["end"]["pass_at_1"]
            colour = BLUE if name == "none" else ORANGE
            axes[2].plot([end["low"], end["high"]], [y, y], color=colour, alpha=0.5)
            axes[2].plot(end["mean"], y, "o", color=colour)
    for run in arms["none"]:
        axes[2].axvline(run["start"]["pass_at_1"]["mean"], color=GREEN, linestyle=":")
    axes[2].set(title="held-out pass@1 (dotted: before)", yticks=range(len(names)), xlabel="pass@1")
    axes[2].set_yticklabels(names)
    axes[2].grid(alpha=0.25)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    plt.close(fig)
    return path
