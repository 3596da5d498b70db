"""Reference curves: what a configuration gave when it was last run for the record, drawn behind a run of the same."""

import functools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "results" / "reference"
POINTS = 200
"Of a band; more are joined by stretches, lowest and highest kept."


@dataclass(frozen=True, slots=True)
class Band:
    """One metric of a reference."""

    rows: list[dict[str, float]]
    "x (step), low, mean, high."
    label: str
    "For the chart's subtitle."


def names() -> list[str]:
    """Configurations that have a reference."""
    return sorted(path.stem for path in FOLDER.glob("*.json")) if FOLDER.is_dir() else []


def of_run(key: str, name: str | None, stage: str | None) -> str | None:
    """The reference of a run's configuration: named like its folder (runs/quick, runs/quick_s3), its name or stage.

    A part of a run has its own: runs/reproduce_s1/zero has reproduce_zero.
    """
    folders, said = ([re.sub(r"_s(eed)?\d+$", "", word) for word in text.split("/")] for text in (key, name or ""))
    words = ["_".join(folders[-2:]), *reversed(folders), *reversed(said), stage or ""]
    return next((word for word in words if word and word in names()), None)


def common(runs: Iterable) -> str | None:
    """The one reference that all runs have (store.Run); None where they differ or have none."""
    found = {of_run(run.key, run.name, run.stage) for run in runs}
    return found.pop() if len(found) == 1 else None


def band(config: str | None, metric: str) -> Band | None:
    """The reference of a metric; None where there is none, or its file is not as it should be."""
    if config is None or config not in names():
        return None
    path = FOLDER / f"{config}.json"
    return _bands(str(path), path.stat().st_mtime_ns).get(metric)


@functools.lru_cache(maxsize=20)
def _bands(path: str, modified_ns: int) -> dict[str, Band]:
    try:
        record = json.loads(Path(path).read_bytes())
        seeds = record["seeds"]
        count = len(seeds) if isinstance(seeds, list) else int(seeds)
        commits = record["commit"] if isinstance(record["commit"], list) else [record["commit"]]
        made_by = f"commit{'s' * (len(commits) > 1)} {', '.join(str(commit)[:8] for commit in commits)}"
        label = f"grey: reference {record['config']}, {count} seeds, {made_by}"
        return {name: Band(_rows(curve), label) for name, curve in record["metrics"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # the Curves page says which file it was: see broken()


def broken() -> list[str]:
    """Files in FOLDER that hold no reference."""
    paths = [FOLDER / f"{name}.json" for name in names()]
    return [path.name for path in paths if not _bands(str(path), path.stat().st_mtime_ns)]


def _rows(curve: dict[str, list[float]]) -> list[dict[str, float]]:
    table = np.array([curve[name] for name in ("step", "low", "mean", "high")], dtype=np.float64)
    table = table[:, np.isfinite(table).all(axis=0)]
    size = max(1, math.ceil(table.shape[1] / POINTS))
    parts = [table[:, start : start + size] for start in range(0, table.shape[1], size)]
    return [
        {"x": float(p[0].mean()), "low": float(p[1].min()), "mean": float(p[2].mean()), "high": float(p[3].max())}
        for p in parts
    ]
