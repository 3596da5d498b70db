"""Which setting of the base learns fastest in wall-clock time: `python -m experiments.search_base [seconds]`.

Every variant differs from the released base in one thing and trains as many tokens as fit the same seconds (90 by
default) at its own speed, its schedules drawn over that length. What counts is the loss on documents never trained on.
All read the same corpus, so that losses compare. Speeds are measured first, on a machine that should do nothing else
then; the runs may share it. What is done is kept; the same command goes on.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from experiments.figures import read_metrics
from experiments.summary import write_json
from infra.tracking import git_state

VARIANTS = {
    "as released": [],
    "AdamW instead of Muon": ["pretrain.optimizer.name=adamw"],
    "Muon at half its rate": ["pretrain.optimizer.muon_lr=0.01"],
    "Muon at twice its rate": ["pretrain.optimizer.muon_lr=0.04"],
    "MTP never": ["pretrain.schedule.mtp_share=0"],
    "MTP in every step": ["pretrain.schedule.mtp_share=1"],
    "rows packed": ["pretrain.rows=packed"],
    "steps of 2,048 tokens": ["pretrain.batch_tokens=2048"],
    "steps of 8,192 tokens": ["pretrain.batch_tokens=8192"],
    "two layers": ["model.num_hidden_layers=2"],
    "four layers": ["model.num_hidden_layers=4"],
    "hidden size 96": ["model.hidden_size=96"],
    "hidden size 192": ["model.hidden_size=192"],
}
PROBE_STEPS = 40
FOLDER, RESULTS = Path("runs/search_base"), Path("experiments/results/search_base.json")


def run(seconds: float) -> dict[str, dict[str, float]]:
    """All variants not done yet; -> variant -> held-out loss, tokens, tokens a second."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = done.get("variants", {}) if done.get("seconds") == seconds else {}

    def keep() -> None:
        write_json(RESULTS, {"seconds": seconds, "commit": git_state()["commit"], "variants": results})

    for name, overrides in VARIANTS.items():  # speeds first, close together: only they depend on the machine
        if name not in results:
            probe = _pretrain(name, "probe", PROBE_STEPS * _batch(overrides), overrides)
            results[name] = {"rate": _rate(probe)}
            keep()
    for name, overrides in VARIANTS.items():
        shown = results[name]
        if "held_out_loss" not in shown:
            tokens = int(shown["rate"] * seconds) // _batch(overrides) * _batch(overrides)
            series = _pretrain(name, "run", tokens, overrides)
            shown |= {"tokens": tokens, "held_out_loss": series["eval/loss"][-1][1]}
            keep()
        print(f"{name:<24}{shown['held_out_loss']:.4f} {shown['tokens'] / 1e6:6.2f}M tokens {shown['rate']:8,.0f}/s")
    return results


def _batch(overrides: list[str]) -> int:
    """Tokens of a step."""
    return next((int(o.split("=")[1]) for o in overrides if o.startswith("pretrain.batch_tokens")), 4096)


def _pretrain(name: str, part: str, tokens: int, overrides: list[str]) -> dict[str, list[tuple[int, float]]]:
    """Train a variant in a folder of its own; a run cut short goes on. -> its metrics."""
    folder = FOLDER / name.replace(" ", "_").replace(",", "") / part
    command = [sys.executable, "-m", "infra.cli", "pretrain", f"run.dir={folder}", f"pretrain.tokens={tokens}"]
    subprocess.run([*command, "tracking.uri=", *overrides], check=True, stderr=subprocess.DEVNULL)
    return read_metrics(folder)


def _rate(series: dict[str, list[tuple[int, float]]]) -> float:
    """Tokens a second, of the steps after the first few."""
    steps = [value for _, value in series["time/step_s"]][5:]
    tokens = [value for _, value in series["tokens"]]
    return (tokens[-1] - tokens[0]) / (len(tokens) - 1) / statistics.mean(steps)


if __name__ == "__main__":
    run(float(sys.argv[1]) if len(sys.argv) > 1 else 90.0)
