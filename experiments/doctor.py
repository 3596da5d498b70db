"""`r1 doctor zero|ppo key=value ...`: two steps of the run that is asked for, thrown away, and what they foretell."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from experiments.config import Config
from experiments.forecast import FILE, STEPS, Record, findings, forecast, table
from infra.files import write_json
from rl.stages import zero
from training import parallel


class _Records:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def log(self, metrics: Record, *, step: int, tokens: int) -> None:
        self.records.append(dict(metrics))

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None: ...

    def finish(self, status: str = "FINISHED") -> None: ...


def run(cfg: Config) -> int:
    """Every rank calls it; -> 1 where the run would be for nothing.

    The forecast is left in run.dir for the run to come, unless there is one already.
    """
    parallel.init(cfg.parallel, cfg.run.seed)
    folder, told = Path(cfg.run.dir), _Records()
    scratch = folder / "doctor"
    parallel.on_main(lambda: shutil.rmtree(scratch, ignore_errors=True))
    parallel.on_main(lambda: scratch.mkdir(parents=True))
    try:
        zero.run(
            Path(cfg.rl.checkpoint),
            parallel_cfg=cfg.parallel,
            task_cfg=cfg.task,
            reward=cfg.reward,
            sampling=cfg.sampling,
            evaluation=cfg.evaluate,
            cfg=dataclasses.replace(cfg.rl, steps=STEPS, evaluate_every=STEPS, save_every=STEPS),
            fp8=cfg.model.fp8,
            run_dir=scratch,
            seed=cfg.run.seed,
            tracker=told,
            config={},
            modules=cfg.model.modules,
            stage="doctor",
        )
    finally:
        parallel.on_main(lambda: shutil.rmtree(scratch))
    ranks = parallel.world()
    found = forecast(told.records, cfg, ranks)
    wrong = findings(found, cfg, ranks)
    if parallel.is_main():
        if not (folder / "metrics.jsonl").exists():  # after a run it would be no forecast
            write_json(folder / FILE, dataclasses.asdict(found))
        said = [("refused: " if each.refuse else "warning: ") + each.text for each in wrong]
        result = dataclasses.asdict(found) | {
            "ranks": ranks,
            "refused": [each.text for each in wrong if each.refuse],
            "warnings": [each.text for each in wrong if not each.refuse],
        }
        print(json.dumps(result, indent=1) if cfg.doctor.json else "\n".join([table(found, cfg, ranks), *said]))
    return int(any(each.refuse for each in wrong))
