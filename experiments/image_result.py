"""What `r1 captions` and R1-Zero on pictures came to: one JSON and one figure, from the folders of the two runs.

python -m experiments.image_result runs/captions runs/image out=experiments/results/image
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.figures import BLUE, GREEN, ORANGE, plt, read_metrics
from infra.files import write_json

NAMES = {"countdown_image": ("in a picture", ORANGE), "countdown": ("in words", BLUE)}


def collect(captions: Path, zero: Path) -> dict[str, Any]:
    """Share of captions read right by step of captions; pass@1 by step of RL and task; the last evaluation, if any."""
    read = read_metrics(captions)["eval/caption_accuracy"]
    files = sorted((zero / "evaluations").glob("step_*.parquet"))
    rows = pd.concat([pd.read_parquet(file, columns=["step", "task", "reward_accuracy"]) for file in files])
    by_task = rows.groupby(["task", "step"])["reward_accuracy"].mean()
    curves = {task: [[int(s), float(v)] for s, v in by_task[task].items()] for task in NAMES if task in by_task}
    result: dict[str, Any] = {"caption_accuracy": read, "pass_at_1": curves}
    if (zero / "evaluation.json").exists():
        tasks = json.loads((zero / "evaluation.json").read_text())["tasks"]
        result["evaluation"] = {
            task: {"questions": e["questions"], "pass_at_1": e["pass_at_1"]} for task, e in tasks.items()
        }
    return result


def draw(result: dict[str, Any], path: Path) -> Path:
    """Both stages side by side."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True)
    left.plot(*zip(*result["caption_accuracy"], strict=True), color=GREEN, linewidth=2)
    left.set(title="Captions: held-out pictures read right", xlabel="SFT step", ylim=(0, 1.02))
    for task, points in result["pass_at_1"].items():
        label, colour = NAMES[task]
        right.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o", label=f"question {label}")
    right.set(title="R1-Zero on both: held-out pass@1", xlabel="RL step")
    right.legend(frameon=False)
    for ax in (left, right):
        ax.grid(alpha=0.25)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    plt.close(fig)
    return path


def main(arguments: list[str]) -> None:
    """Write result.json and image.png into `out`."""
    folders = [Path(a) for a in arguments if not a.startswith("out=")]
    out = Path(next((a.removeprefix("out=") for a in arguments if a.startswith("out=")), "experiments/results/image"))
    result = collect(*folders)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "result.json", result)
    print(json.dumps(result["pass_at_1"]), draw(result, out / "image.png"))


if __name__ == "__main__":
    main(sys.argv[1:])
