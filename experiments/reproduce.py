"""The journey of `make reproduce`: base -> its evaluation -> R1-Zero -> its evaluation -> table, figures, answers.

Each part leaves its product in the run folder and is not done again when it is there; a part cut short resumes from
its checkpoint. The parts share their processes, so that libraries are loaded once.
"""

import json
import os
import threading
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

WRITE_EVERY_S = 5.0
"Seconds between notes of how long the part at hand has taken."


def run(cfg: Config) -> None:
    """Run or resume the journey in cfg.run.dir; every rank calls it. Prints the results and writes summary.json."""
    folder = Path(cfg.run.dir)
    journal = Journal(folder / "journal.json")

    base = Path(cfg.reproduce.base) if cfg.reproduce.base else None
    if base is None:
        with journal.part("pretrain"):
            base = pretrain_stage(cfg, folder / "base")
    with journal.part("evaluate"):
        base_scores = _once(folder / "base.json", lambda: evaluate_model(cfg, base, folder / "base_answers.parquet"))
    with journal.part("zero"):
        zero = zero_stage(cfg, base, folder / "zero", base_scores)
    with journal.part("evaluate"):
        zero_scores = _once(folder / "zero.json", lambda: evaluate_model(cfg, zero, folder / "zero_answers.parquet"))

    journal.memory(sum(parallel.gather_objects(peak_memory_gib())))
    if parallel.is_main():
        _report(folder, cfg, journal, base_scores, zero_scores)


class Journal:
    """What is known of a journey, in a file, so that one cut short and begun again reports the whole of it.

    seconds of each part (all starts added up; one that was killed outright counts to within WRITE_EVERY_S), the longest
    set-up, the most memory, and the commit of the first start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        state = git_state()
        self.facts = {"seconds": {}, "setup": 0.0, "peak_memory_gib": 0.0, "commit": state["commit"], "dirty": False}
        if path.exists():
            self.facts |= json.loads(path.read_text())
        self.facts["dirty"] |= state["dirty"] or state["commit"] != self.facts["commit"]
        self.facts["setup"] = max(self.facts["setup"], float(os.environ.get("R1_SETUP_SECONDS", 0.0)))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the journey."""
        start, before, ended = time.perf_counter(), self.facts["seconds"].get(name, 0.0), threading.Event()

        def note() -> None:
            self.facts["seconds"][name] = before + time.perf_counter() - start
            self._write()

        clock = threading.Thread(target=_now_and_then, args=(note, ended), daemon=True)
        clock.start()
        try:
            yield
        finally:  # also when the part is interrupted
            ended.set()
            clock.join()
            note()

    def memory(self, gib: float) -> None:
        """Keep the most memory seen over all starts."""
        self.facts["peak_memory_gib"] = max(self.facts["peak_memory_gib"], gib)
        self._write()

    def _write(self) -> None:
        if os.environ.get("RANK", "0") == "0":  # known before the ranks have met
            write_json(self.path, self.facts)


def _now_and_then(note: Callable[[], None], ended: threading.Event) -> None:
    """Call note every WRITE_EVERY_S seconds until the event is set."""
    while not ended.wait(WRITE_EVERY_S):
        try:
            note()
        except OSError:  # a full disk, say: the part's own files will tell, or its end
            continue


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


def _report(folder: Path, cfg: Config, journal: Journal, base: dict, zero: dict) -> None:
    """summary.json, and what the user reads at the end."""
    facts = journal.facts
    parts = {part: facts["seconds"].get(part, 0.0) for part in ("pretrain", "zero", "evaluate")}
    summary = {
        "scale": cfg.scale,
        "seed": cfg.run.seed,
        "commit": facts["commit"],
        "dirty": facts["dirty"],
        "peak_memory_gib": round(facts["peak_memory_gib"], 2),
        "seconds": {"setup": facts["setup"]} | parts | {"total": facts["setup"] + sum(parts.values())},
        "base": base,
        "zero": zero,
    }
    write_json(folder / "summary.json", summary)

    print("\n" + table(base, zero))
    print("\nOne held-out question (the first that the end answers right at its first try):")
    print(three_answers(_answers(folder)))
    print("\nSeconds: " + ", ".join(f"{part} {value:.0f}" for part, value in summary["seconds"].items()))
    print("Figures: " + " ".join(str(path) for path in sorted((folder / "zero" / "figures").glob("*.png"))))
    print(f"Summary: {folder / 'summary.json'}\nLook closer: make dashboard | make mlflow")
