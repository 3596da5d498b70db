"""Which setting of the base learns fastest in wall-clock time: `python -m experiments.search_base [seconds]`.

Every variant differs from the released base in one thing and trains as many tokens as fit the same seconds (90 by
default) at its own speed, its schedules drawn over that length. What counts is the loss on documents never trained on.
All read the same corpus, so that losses compare. Variants done are kept; the same command goes on.
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
    """All variants not done yet; -> variant -> held-out loss, tokens, tokens a second, seconds of training steps."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = done.get("variants", {}) if done.get("seconds") == seconds else {}
    for name, overrides in VARIANTS.items():
        if name not in results:
            results[name] = _train(name, overrides, seconds)
            write_json(RESULTS, {"seconds": seconds, "commit": git_state()["commit"], "variants": results})
        shown = results[name]
        print(f"{name:<24}{shown['held_out_loss']:.4f} {shown['tokens'] / 1e6:6.2f}M tokens {shown['rate']:8,.0f}/s")
    return results


def _train(name: str, overrides: list[str], seconds: float) -> dict[str, float]:
    """A short run for the speed, then the run whose length follows from it."""
    batch = next((int(o.split("=")[1]) for o in overrides if o.startswith("pretrain.batch_tokens")), 4096)
    folder = FOLDER / name.replace(" ", "_").replace(",", "")
    probe = _pretrain(folder / "probe", PROBE_STEPS * batch, overrides)
    tokens = int(_rate(probe) * seconds) // batch * batch
    series = _pretrain(folder / "run", tokens, overrides)
    return {
        "held_out_loss": series["eval/loss"][-1][1],
        "tokens": tokens,
        "rate": _rate(series),
        "seconds": sum(value for _, value in series["time/step_s"]),
    }


def _pretrain(folder: Path, tokens: int, overrides: list[str]) -> dict[str, list[tuple[int, float]]]:
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
