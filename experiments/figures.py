"""Figures of an R1-Zero run as PNG: accuracy, response length and reflection against steps (R1 fig. 2 and 3)."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"  # Okabe-Ito: told apart by colour-blind readers


def read_metrics(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """metric -> [(step, value)] of a run's metrics.jsonl, and its tokens; a step done twice keeps the later value."""
    series: dict[str, dict[int, float]] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line a crash cut short
            continue
        for name, value in (record["metrics"] | {"tokens": record.get("tokens")}).items():
            if value is not None:
                series.setdefault(name, {})[record["step"]] = value
    return {name: sorted(points.items()) for name, points in series.items()}


def moving_mean(values: list[float], window: int = 5) -> list[float]:
    """Mean of the last `window` values up to each point."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]


def _line(ax, series, name: str, label: str, colour: str) -> None:
    if name not in series:
        return
    steps, values = zip(*series[name], strict=True)
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    ax.plot(steps, moving_mean(list(values)), color=colour, linewidth=2, label=label)


def _save(fig, ax, title: str, ylabel: str, path: Path, xlabel: str = "R1-Zero step") -> Path:
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    plt.close(fig)
    return path


def draw_budgets(points: list[dict], free: dict, path: Path) -> Path:
    """Accuracy against mean response tokens, a point a thinking budget; free: the model left to itself."""
    fig, ax = plt.subplots(figsize=(6.4, 4))
    for some, colour, label in ((points, BLUE, "thinking cut at a budget"), ([free], ORANGE, "as long as it likes")):
        tokens, accuracy = [p["response_tokens"] for p in some], [p["pass_at_1"] for p in some]
        errors = [[a["mean"] - a["low"] for a in accuracy], [a["high"] - a["mean"] for a in accuracy]]
        means = [a["mean"] for a in accuracy]
        ax.errorbar(tokens, means, errors, color=colour, fmt="o-", capsize=3, label=f"{label}, 95 % interval")
    for point in points:
        at = (point["response_tokens"], point["pass_at_1"]["mean"])
        ax.annotate(str(point["budget"]), at, textcoords="offset points", xytext=(6, -12))
    path.parent.mkdir(parents=True, exist_ok=True)
    return _save(fig, ax, "Accuracy against tokens, by thinking budget", "pass@1", path, "mean response tokens")


def draw(run_dir: Path, out: Path, *, task: str, base: dict | None = None) -> list[Path]:
    """Draw the three figures of the run in `run_dir` into `out`; base: its base's evaluation, drawn dashed."""
    series = read_metrics(run_dir)
    out.mkdir(parents=True, exist_ok=True)

    fig, ax = plt.subplots(figsize=(6.4, 4))
    _line(ax, series, "rl/reward/accuracy", "training questions, pass@1 (mean of 5 steps)", BLUE)
    held_out = series.get(f"eval/{task}/pass_at_1", [])
    if held_out:
        low, high = (dict(series[f"eval/{task}/pass_at_1_{end}"]) for end in ("low", "high"))
        steps, values = zip(*held_out, strict=True)
        errors = [[v - low[s] for s, v in held_out], [high[s] - v for s, v in held_out]]
        ax.errorbar(steps, values, errors, color=ORANGE, fmt="o-", capsize=3, label="held-out questions, 95 % interval")
    if base:
        ax.axhline(base["pass_at_1"]["mean"], color=GREY, linestyle="--", label="base model, held-out")
    accuracy = _save(fig, ax, "Accuracy", "pass@1", out / "accuracy.png")

    fig, ax = plt.subplots(figsize=(6.4, 4))
    _line(ax, series, "rl/response_tokens", "all answers", BLUE)
    _line(ax, series, "rl/response_tokens_correct", "right answers", GREEN)
    _line(ax, series, "rl/response_tokens_wrong", "wrong answers", ORANGE)
    if base:
        ax.axhline(base["response_tokens"], color=GREY, linestyle="--", label="base model")
    length = _save(fig, ax, "Response length (nothing rewards it)", "tokens", out / "response_length.png")

    fig, ax = plt.subplots(figsize=(6.4, 4))
    _line(ax, series, "rl/reflection_rate", "answers with a self-check", BLUE)
    if base:
        ax.axhline(base["reflection_rate"], color=GREY, linestyle="--", label="base model, same rule")
    reflection = _save(fig, ax, "Reflection (nothing rewards it)", "share of answers", out / "reflection.png")
    return [accuracy, length, reflection]
