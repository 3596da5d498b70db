"""`python -m experiments.mismatch [fault ...] [seeds=1] [steps=24] [questions=8] ... [out=FOLDER]`: the laboratory.

R1-Zero on the released base with a sampler that has one known fault, against the same with none: same seeds, same
questions, same numbers that decide the tokens. Each run is kept in runs/mismatch and not done again; the table, the
figure and the JSON in experiments/results/mismatch are of all faults that have all seeds. Sizes are those of Size.
"""

import json
import sys
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.summary import write_json
from infra.errors import ConfigError, R1Error
from infra.hardware import machine
from infra.progress import say
from infra.tracking import git_state

if TYPE_CHECKING:
    from experiments.mismatch.arm import Size

RUNS = Path("runs/mismatch")
RESULTS = Path(__file__).resolve().parents[1] / "results" / "mismatch"


def main(given: list[str]) -> dict[str, Any]:
    """Run what is missing, write the result, return it."""
    from experiments.mismatch.arm import Size, run_arm
    from experiments.mismatch.faults import FAULTS
    from experiments.mismatch.report import draw, summary, table
    from rl.alarms import ALARMS

    own = dict(item.split("=", 1) for item in given if "=" in item)
    names = [item for item in given if "=" not in item] or list(FAULTS)
    out = Path(own.pop("out", RESULTS))
    known = ["seeds", *(f.name for f in fields(Size))]
    for wrong in [key for key in own if key not in known or not own[key].isdigit()]:
        raise ConfigError(wrong, own[wrong], "is no setting with a number", f"set one of {', '.join(known)}")
    for wrong in [name for name in names if name not in FAULTS]:
        raise ConfigError("mismatch", wrong, "is no fault", f"choose from {', '.join(FAULTS)}")
    seeds = int(own.pop("seeds", "1"))
    size = Size(**{key: int(value) for key, value in own.items()})
    for seed in range(seeds):
        for name in names:
            path = _path(name, seed, size)
            if not path.exists():
                say(f"{name}, seed {seed}: {FAULTS[name].about} ...")
                write_json(path, run_arm(name, size, seed=seed))

    arms = {}
    for name in FAULTS:
        paths = [_path(name, seed, size) for seed in range(seeds)]
        if all(path.exists() for path in paths):
            arms[name] = [json.loads(path.read_text()) for path in paths]
    if "none" not in arms:
        raise ConfigError("mismatch", " ".join(names), "there is no baseline to compare with", "run none, too")
    found = summary(arms)
    result = {
        "name": "mismatch",
        "question": "which metric shows a known fault of the sampler, how early, and what does it do to learning",
        "faults": {name: FAULTS[name].about for name in arms},
        "levels": {alarm.name: {"metric": alarm.metric, "level": alarm.level} for alarm in ALARMS},
        "size": asdict(size) | {"seeds": seeds},
        "arms": found,
        "curves": {name: [_curves(run) for run in runs] for name, runs in arms.items()},
        "command": " ".join(["python -m experiments.mismatch", *given]),
    }
    result |= {key: git_state()[key] for key in ("commit", "dirty")} | {"machine": machine()}
    write_json(out / "mismatch.json", result)
    draw(arms, out / "mismatch.png")
    print(table(found))
    say(f"written to {out}")
    return result


def _path(name: str, seed: int, size: "Size") -> Path:
    return RUNS / "_".join(map(str, astuple(size))) / f"{name}_seed{seed}.json"


def _curves(run: dict[str, Any]) -> dict[str, list[float | None]]:
    """Step by step, rounded: what the figure is of, so that levels can be judged again without training.

    None: nothing was measured, all groups being right.
    """
    names = ("rl/sampler_trainer_diff", "rl/sampler_trainer_far_frac", "rl/surprisal_z", "rl/reward/accuracy")
    rounded = ({name: float(f"{value:.4g}") for name, value in step.items() if name in names} for step in run["steps"])
    steps = list(rounded)
    return {name: [step.get(name) for step in steps] for name in names}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except R1Error as error:
        sys.exit(f"mismatch: {error}")
