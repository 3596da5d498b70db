"""Make a run's base the released one: `python -m experiments.release runs/base`.

Copies the model to experiments/base and writes its card: command, config, seed, commit, corpus hash, loss curve, and
the weights' hash.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.chat import RELEASED_BASE
from experiments.figures import BLUE, ORANGE, read_metrics
from experiments.summary import write_json
from infra.errors import CheckpointError
from modeling import hf
from training.data.corpus import CorpusConfig, corpus_hash


def release(run_dir: Path, out: Path = RELEASED_BASE) -> Path:
    """Copy run_dir/model to `out` with its card; -> out. Raises CheckpointError where the run is not finished."""
    run_dir = Path(run_dir)
    if not (run_dir / "model" / "config.json").exists():
        raise CheckpointError(f"{run_dir}: holds no finished model; let r1 pretrain run.dir={run_dir} end first")
    run = json.loads((run_dir / "run.json").read_text())
    config = run["config"]
    series = read_metrics(run_dir)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run_dir / "model", out)
    corpus = CorpusConfig(**config["corpus"])
    write_json(
        out / "card.json",
        {
            "command": f"r1 pretrain run.seed={run['seed']}",
            "commit": run["commit"],
            "dirty": run["dirty"],
            "seed": run["seed"],
            "corpus_sha256_of_2000_documents": corpus_hash(corpus, run["seed"]),
            "parameters": hf.config_from(out).num_params(mtp=True),
            "tokens": config["pretrain"]["tokens"],
            "training_seconds": round(sum(value for _, value in series["time/step_s"])),
            "held_out_loss": series["eval/loss"][-1][1],
            "weights_sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
            "config": {key: config[key] for key in ("model", "corpus", "pretrain")},
        },
    )
    _draw(series, out / "loss_curve.png")
    return out


def _draw(series: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Training and held-out loss against tokens."""
    tokens = dict(series["tokens"])
    fig, ax = plt.subplots(figsize=(6.4, 4))
    for name, label, colour in (("train/loss", "training", BLUE), ("eval/loss", "documents never trained on", ORANGE)):
        points = [(tokens.get(step, 0) / 1e6, value) for step, value in series[name]]
        ax.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=label)
    ax.set(title="Released base", xlabel="million tokens", ylabel="next-token loss, nats", yscale="log")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


if __name__ == "__main__":
    print(f"released: {release(Path(sys.argv[1]))}")
