"""The journey of `make reproduce`: base -> its evaluation -> R1-Zero -> its evaluation -> table, figures, answers.

Each part leaves its product in the run folder and is not done again when it is there; a part cut short resumes from
its checkpoint. The parts share their processes, so that libraries are loaded once.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from experiments.config import Config
from experiments.stages import evaluate_model, pretrain_stage, zero_stage
from experiments.summary import table, three_answers, write_json
from infra.hardware import peak_memory_gib
from infra.tracking import git_state
from training import parallel


def run(cfg: Config) -> None:
    """Run or resume the journey in cfg.run.dir; every rank calls it. Prints the results and writes summary.json."""
    folder = Path(cfg.run.dir)
    watch = Stopwatch(folder / "seconds.json")

    base = Path(cfg.reproduce.base) if cfg.reproduce.base else None
    if base is None:
        with watch("pretrain"):
            base = pretrain_stage(cfg, folder / "base")
    with watch("evaluate"):
        base_scores = _once(folder / "base.json", lambda: evaluate_model(cfg, base, folder / "base_answers.parquet"))
    with watch("zero"):
        zero = zero_stage(cfg, base, folder / "zero", base_scores)
    with watch("evaluate"):
        zero_scores = _once(folder / "zero.json", lambda: evaluate_model(cfg, zero, folder / "zero_answers.parquet"))

    memory = sum(parallel.gather_objects(peak_memory_gib()))
    if parallel.is_main():
        _report(cfg, folder, watch, base_scores, zero_scores, memory)


class Stopwatch:
    """Seconds of each part, kept in a file: an interrupted journey counts all of its time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:  # also when the part is interrupted
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
            if parallel.is_main():
                write_json(self.path, self.seconds)


def _answers(folder: Path) -> list[tuple[str, list[dict]]]:
    """(name, answers) of base, the middle of the run and its end."""
    curve = sorted((folder / "zero" / "evaluations").glob("step_*.parquet"))
    middle = curve[len(curve) // 2 : len(curve) // 2 + 1] if len(curve) > 2 else []
    files = [("base", folder / "base_answers.parquet")]
    files += [(f"R1-Zero at step {int(path.stem.split('_')[1])}", path) for path in middle]
    files.append(("R1-Zero at the end", folder / "zero_answers.parquet"))
    return [(name, pd.read_parquet(path).to_dict("records")) for name, path in files]


def _once(path: Path, measure: Callable[[], dict]) -> dict:
    """A measurement kept on disk: read where it is there, made and written where not."""
    known = parallel.broadcast_object(json.loads(path.read_text()) if parallel.is_main() and path.exists() else None)
    if known is None:
        known = measure()
        if parallel.is_main():
            write_json(path, known)
    return known


def _report(cfg: Config, folder: Path, watch: Stopwatch, base: dict, zero: dict, memory: float) -> None:
    """summary.json, the figures, and what the user reads at the end."""
    figures = sorted((folder / "zero" / "figures").glob("*.png"))
    setup = float(os.environ.get("R1_SETUP_SECONDS", 0.0))
    parts = {part: watch.seconds.get(part, 0.0) for part in ("pretrain", "zero", "evaluate")}
    state = git_state()
    summary = {
        "scale": cfg.scale,
        "seed": cfg.run.seed,
        "commit": state["commit"],
        "dirty": state["dirty"],
        "peak_memory_gib": round(memory, 2),
        "seconds": {"setup": setup} | parts | {"total": setup + sum(parts.values())},
        "base": base,
        "zero": zero,
    }
    write_json(folder / "summary.json", summary)

    print("\n" + table(base, zero))
    print("\nOne held-out question (the first that the end answers right at its first try):")
    print(three_answers(_answers(folder)))
    print("\nSeconds: " + ", ".join(f"{part} {value:.0f}" for part, value in summary["seconds"].items()))
    print("Figures: " + " ".join(str(path) for path in figures))
    print(f"Summary: {folder / 'summary.json'}\nLook closer: make dashboard | make mlflow")
