"""What FP8 costs in loss: tiny pre-training with emulated FP8 products against the same in full precision, with the
same data and first weights (V3 §3.3: "the relative loss error remains consistently below 0.25 %").

`python -m experiments.fp8_loss [seeds=3] [out=FILE] [key=value ...]`: the other settings are those of `r1 pretrain`.
A third arm differs from the reference in the order of sums alone (Megatron's module for the experts in the place of
ours): so much does rounding by itself drive two runs apart. Runs are kept in runs/fp8_loss and go on where they were;
torchrun may start several ranks.
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.config import Config, compose, to_dict
from experiments.stages import pretrain_stage
from experiments.summary import write_json
from infra.errors import ConfigError, R1Error
from infra.hardware import machine
from infra.progress import say
from infra.tracking import git_state
from training import parallel

PAPER = 0.0025
DEFAULTS = ["pretrain.tokens=1_000_000", "tracking.uri="]
ARMS = {"reference": [], "rounding": ["model.experts=sequential"], "fp8": ["model.fp8=emulated"]}
RUNS = Path("runs/fp8_loss")
RESULT = Path(__file__).resolve().parent / "results" / "fp8" / "loss.json"
WINDOWS = 10


def main(given: list[str]) -> dict[str, Any]:
    """Train every arm with every seed, write the result, return it."""
    own = dict(item.split("=", 1) for item in given if item.startswith(("seeds=", "out=")))
    rest = [item for item in given if item.split("=", 1)[0] not in own]
    seeds = int(own.get("seeds", "3")) if own.get("seeds", "3").isdigit() else 0
    if seeds < 1:
        raise ConfigError("seeds", own["seeds"], "is no number of seeds", "set seeds=3")
    configs = {(arm, seed): _config(rest, arm, seed) for seed in range(seeds) for arm in ARMS}  # all judged before any
    losses = {}
    for (arm, seed), cfg in configs.items():
        if parallel.is_main():
            say(f"{arm}, seed {seed} ...")
        pretrain_stage(cfg, Path(cfg.run.dir))
        losses[arm, seed] = read_losses(Path(cfg.run.dir) / "metrics.jsonl")
    result = summary(losses)
    result["command"] = " ".join(["python -m experiments.fp8_loss", *given])
    result["config"] = to_dict(configs["fp8", 0])
    result |= {key: git_state()[key] for key in ("commit", "dirty")} | {"machine": machine()}
    if parallel.is_main():
        out = Path(own.get("out", RESULT))
        write_json(out, result)
        say(_line(result))
        say(f"written to {out}")
    return result


def _config(given: list[str], arm: str, seed: int) -> Config:
    named = {item.split("=", 1)[0] for item in given}
    defaults = [item for item in DEFAULTS if item.split("=", 1)[0] not in named]
    folder = [] if "run.dir" in named else [f"run.dir={RUNS}"]
    cfg = compose("pretrain", [*defaults, *folder, *given, *ARMS[arm], f"run.seed={seed}"])
    cfg.run.dir = f"{cfg.run.dir}/{arm}_seed{seed}"
    return cfg


def read_losses(path: Path) -> dict[str, Any]:
    """{"train": loss of each step, "eval": the last held-out loss} of a run; of a step done twice, the later."""
    records = {}
    evaluated = None
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "train/loss" in record["metrics"]:
            records[record["step"]] = record["metrics"]["train/loss"]
        evaluated = record["metrics"].get("eval/loss", evaluated)
    return {"train": [records[step] for step in sorted(records)], "eval": evaluated}


def summary(losses: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """(arm, seed) -> losses  becomes  relative differences to the reference: per seed, then over seeds.

    Per arm but the reference: `eval` of the final held-out loss, `train` of the mean over the last tenth of the steps,
    `windows` of the mean over each tenth. Example: reference 2.0, fp8 2.002 gives 0.001.
    """
    seeds = sorted({seed for _, seed in losses})
    arms = [arm for arm in dict.fromkeys(arm for arm, _ in losses) if arm != "reference"]
    rows = []
    for seed in seeds:
        row: dict[str, Any] = {"seed": seed}
        base = losses["reference", seed]
        row["reference"] = {"eval": base["eval"], "train": _windows(base["train"])[-1]}
        for arm in arms:
            other = losses[arm, seed]
            pairs = zip(_windows(other["train"]), _windows(base["train"]), strict=True)
            windows = [ours / theirs - 1 for ours, theirs in pairs]
            row[arm] = {"eval": other["eval"] / base["eval"] - 1, "train": windows[-1], "windows": windows}
        rows.append(row)
    over = {
        arm: {
            key: {
                "mean": mean(row[arm][key] for row in rows),
                "least": min(row[arm][key] for row in rows),
                "most": max(row[arm][key] for row in rows),
            }
            for key in ("eval", "train")
        }
        for arm in arms
    }
    held = sum(abs(row["fp8"]["eval"]) < PAPER for row in rows)
    return {
        "name": "fp8_loss",
        "question": "relative difference of the loss in FP8 to that of the reference",
        "paper": {"below": PAPER, "source": "V3 section 3.3, appendix B.1: 16B and 230B, about 1T tokens"},
        "within_paper": {"seeds": held, "of": len(rows)},
        "relative": over,
        "by_seed": rows,
    }


def _windows(losses: list[float]) -> list[float]:
    """Means over tenths of the steps, as equal as they divide."""
    cuts = [round(i * len(losses) / WINDOWS) for i in range(WINDOWS + 1)]
    return [mean(losses[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]


def _line(result: dict[str, Any]) -> str:
    """The result in words."""
    said = []
    for arm, values in result["relative"].items():
        middle, least, most = (100 * values["eval"][key] for key in ("mean", "least", "most"))
        said.append(f"{arm} {middle:+.3f} % ({least:+.3f} to {most:+.3f})")
    seeds = result["within_paper"]
    limit = f"the paper's {100 * PAPER:.2f} % holds in {seeds['seeds']} of {seeds['of']} seeds"
    return f"held-out loss relative to the reference: {', '.join(said)}; {limit}"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except R1Error as error:
        sys.exit(f"fp8_loss: {error}")
