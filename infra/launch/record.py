"""What was launched from a run folder, kept beside the jobs' scripts, so that any later process finds them again."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import R1Error
from infra.files import read_json, write_json
from infra.launch_config import LaunchConfig

FOLDER = "launch"
"Where a run folder keeps its launches."
_NAME = "launch.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job of a launch."""

    stage: str
    "Its name: the stage, or the experiment that is its own."
    id: str
    "SLURM's; of an array the whole's."
    folder: str
    "Its script's copy of the code and its logs."
    run_dir: str
    "What it works in; @seed@ stands for the seed of an array's task."
    run_id: str
    "What MLflow knows it by (tag run_id); empty for a stage that is no run."


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A chain of jobs that was submitted."""

    run_dir: str
    created: str
    commit: str
    dirty: bool
    tree: str
    "The git tree that was packaged."
    command: list[str]
    "As typed."
    time: str
    save_before_s: int
    memory: str
    jobs: list[JobRecord]

    def settings(self) -> LaunchConfig:
        """Those that tell why a job ended."""
        return LaunchConfig(time=self.time, save_before_s=self.save_before_s, memory=self.memory)


def save(launch: Launch, folder: Path) -> None:
    """Keep it beside its scripts."""
    write_json(folder / _NAME, dataclasses.asdict(launch))


def find(run_dir: Path) -> Launch | None:
    """The newest launch from the run folder, None where there is none. R1Error where its record cannot be read."""
    found = _records(run_dir)
    return _read(found[-1]) if found else None


def find_newest(runs: Path = Path("runs")) -> Launch | None:
    """The newest launch from any folder in `runs`."""
    found = [path for folder in runs.glob(f"*/{FOLDER}") for path in _records(folder.parent)]
    return _read(max(found, key=os.path.getmtime)) if found else None


def _records(run_dir: Path) -> list[Path]:
    """Oldest first: NeMo-Run names its folders by the time in ns."""
    return sorted((run_dir / FOLDER).glob(f"experiments/jobs/*/{_NAME}"))


def _read(path: Path) -> Launch:
    facts: dict[str, Any] = read_json(path)
    try:
        jobs = [JobRecord(**job) for job in facts.pop("jobs")]
        return Launch(**facts, jobs=jobs)
    except (KeyError, TypeError):
        raise R1Error(f"{path}: is no record of a launch; remove it") from None
