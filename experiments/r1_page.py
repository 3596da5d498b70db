"""What `make r1` shows: the table of stages, its summary.json, and one page of figures."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from experiments.figures import BLUE, GREEN, GREY, ORANGE, moving_mean, read_metrics
from rl.evaluate_stats import bootstrap_interval
from rl.language import language_of, thinking_language_share
from rl.reflection import reflection_rate

RL_STAGES = ("zero", "reasoning", "all_scenarios", "student_rl")
FIGURES = ("response_tokens", "thinking_tokens", "language_consistency", "format_rate", "reflection_rate")


def language_consistency(answers: Path) -> float | None:
    """Mean share of the words of the thinking in the language of the prompt (R1 §2.3.2), over those with any."""
    rows = pd.read_parquet(answers, columns=["prompt", "text"])
    shares = [thinking_language_share(t, language_of(p)) for p, t in zip(rows.prompt, rows.text, strict=True)]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def set_figures(folder: Path) -> dict[str, Any]:
    """Figures of a set: pass@1 of all answers that were drawn to its training questions, the rest of those kept."""
    counts = json.loads((folder / "counts.json").read_text())
    rows = pd.read_parquet(folder / "data.parquet")
    kept = rows[rows.part == "reasoning"]
    sampled = {}
    for path in sorted((folder / "sampled").glob("reasoning_*.json")):
        stored = json.loads(path.read_text())
        sampled |= {answer["text"]: answer["tokens"] for answers in stored["answers"] for answer in answers}
    mean, low, high = bootstrap_interval(counts["right"])
    shares = [thinking_language_share(t, lang) for t, lang in zip(kept.response, kept.language, strict=True)]
    known = [share for share in shares if share is not None]
    return {
        "pass_at_1": {"mean": mean, "low": low, "high": high},
        "response_tokens": float(kept.response.map(sampled).mean()),
        "thinking_tokens": None,
        "language_consistency": sum(known) / len(known) if known else None,
        "format_rate": 1.0,
        "reflection_rate": reflection_rate(kept.response),
        "rows": len(rows),
        "general_rows": int((rows.part == "general").sum()),
        "of": "training questions; all but pass_at_1 of the answers kept",
    }


def entry(stage: str, seconds: float, figures: dict[str, Any]) -> dict[str, Any]:
    """One stage of summary.json."""
    known = {key: figures.get(key) for key in ("parents", "pass_at_1", *FIGURES)}
    beside = ("majority_at_8", "truncated", "questions", "samples", "id", "rows", "general_rows", "of")
    return {"stage": stage, "seconds": round(seconds, 1)} | known | {k: figures[k] for k in beside if k in figures}


def table(summary: list[dict[str, Any]]) -> str:
    """The stages, a line each."""
    head = ("stage", "pass@1 [95 % interval]", "tokens", "thinking", "language", "format", "self-checks", "seconds")
    rows = [head]
    for one in summary:
        p = one["pass_at_1"]
        shown = [_number(one[key], digits) for key, digits in zip(FIGURES, (1, 1, 3, 3, 3), strict=True)]
        interval = f"{p['mean']:.3f} [{p['low']:.3f}, {p['high']:.3f}]"
        rows.append((one["stage"] + (" (its set)" if "of" in one else ""), interval, *shown, f"{one['seconds']:.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(folder: Path, summary: list[dict[str, Any]], path: Path) -> Path:
    """One page: accuracy, lengths and rates of all stages above, the curves of the stages of RL below."""
    fig, axes = plt.subplots(2, 3, figsize=(15, 8.5))
    names = [one["stage"] for one in summary]
    places = range(len(names))

    ax = axes[0][0]
    for place, one in zip(places, summary, strict=True):
        p = one["pass_at_1"]
        colour = GREY if "of" in one else BLUE
        ax.errorbar(
            place, p["mean"], [[p["mean"] - p["low"]], [p["high"] - p["mean"]]], fmt="o", color=colour, capsize=3
        )
    _named(ax, "pass@1, held-out questions, 95 % interval (grey: its training questions)", names)
    ax.set_ylim(0, 1.02)

    ax = axes[0][1]
    for key, label, colour in (("response_tokens", "response", BLUE), ("thinking_tokens", "thinking", ORANGE)):
        ax.plot(places, _values(summary, key), "o-", color=colour, label=label)
    _named(ax, "Tokens", names)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)

    ax = axes[0][2]
    rates = (("language_consistency", "language consistency", GREEN), ("format_rate", "right format", BLUE))
    for key, label, colour in (*rates, ("reflection_rate", "with a self-check", ORANGE)):
        ax.plot(places, _values(summary, key), "o-", color=colour, label=label)
    _named(ax, "Share of answers", names)
    ax.set_ylim(0, 1.02)
    ax.legend(frameon=False)

    curves = (
        ("rl/reward/accuracy", "Training questions answered right"),
        ("rl/response_tokens", "Response tokens in training"),
        ("rl/reflection_rate", "Answers with a self-check in training"),
    )
    for ax, (metric, title) in zip(axes[1], curves, strict=True):
        _curves(ax, folder, metric, title)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)
    return path


def _curves(ax: Any, folder: Path, metric: str, title: str) -> None:
    """A metric of every stage of RL against its steps, the mean of five."""
    for stage, colour in zip(RL_STAGES, (BLUE, ORANGE, GREEN, GREY), strict=True):
        if not (folder / stage / "metrics.jsonl").exists():
            continue
        points = read_metrics(folder / stage).get(metric, [])
        if points:
            steps, values = zip(*points, strict=True)
            ax.plot(steps, moving_mean(list(values)), color=colour, label=stage)
            ax.legend(frameon=False)
    ax.set(title=title, xlabel="step")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)


def _values(summary: list[dict[str, Any]], key: str) -> list[float]:
    return [float("nan") if one[key] is None else one[key] for one in summary]


def _named(ax: Any, title: str, names: list[str]) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
    ax.grid(alpha=0.25)
