"""Settings of `r1 launch` -> a chain of jobs: which command runs where, on what folder, after which other."""

import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import overrides
from experiments.config import GROUPS, Config, compose, refuse_other_run
from experiments.reads import FILES, FOLDERS
from infra import ranks
from infra.errors import ConfigError
from infra.files import read_json
from infra.launch_config import Launcher
from infra.tracking import absolute_uri

SEED = "@seed@"
"Stands for the seed in a job that is run once for each."
_RUNS = ("pretrain", "zero", "ppo", "dpo", "cold_start", "reasoning", "sft", "all_scenarios", "distill")
"Stages that MLflow knows as one run; reproduce and r1 are several, evaluate and rejection none."
_ARRAY_INDEX = '"$SLURM_ARRAY_TASK_ID"'
"The index of a job array is the seed itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command, run once, or once for each seed."""

    stage: str
    "The command: r1 <stage>."
    args: tuple[str, ...]
    "Its settings; SEED stands for the seed."
    run_dir: str
    "Its folder, absolute; SEED stands for the seed."
    after: str | None
    "The stage that has to end well before it."
    run_id: str
    "What MLflow will know the run by (tag run_id), with SEED for the seed; empty for a stage that is no run."
    folders: tuple[str, ...]
    "Folders outside of the code that it reads or writes."
    cfg: Config
    "Its settings, judged; for the first seed where there are several."

    def command(self, seed: int) -> list[str]:
        """What the user would type for this seed."""
        return [self.stage, *(arg.replace(SEED, str(seed)) for arg in self.args)]

    def folder(self, seed: int) -> Path:
        """run.dir for this seed."""
        return Path(self.run_dir.replace(SEED, str(seed)))

    def shell(self) -> list[str]:
        """stage and settings as words of a shell script, the seed taken from the job array."""
        return [self.stage, *map(words, self.args)]


def words(text: str) -> str:
    """The text quoted for a shell script, with the index of the job array for the seed."""
    return _ARRAY_INDEX.join(shlex.quote(part) if part else "" for part in text.split(SEED))


def chain(cfg: Config, given: Sequence[str]) -> list[Job]:
    """The jobs of launch.stages in their order, every one judged as its command will judge it.

    cfg: settings of `r1 launch`; given: the same as typed. Several stages get a folder each, run.dir/<stage>; a stage
    starts from the model of the one before. Raises ConfigError, also where a folder holds another run.
    """
    root = Path(cfg.run.dir).resolve()
    seeds = cfg.launch.seeds or [cfg.run.seed]
    passed = [item for item in overrides.full(given, "launch", Config, GROUPS) if not _ours(item)]
    if cfg.launch.seeds:
        passed = [item for item in passed if not item.startswith("run.seed=")]
    jobs: list[Job] = []
    for stage in cfg.launch.stages:
        folder = str(root / f"seed_{SEED}" if cfg.launch.seeds else root)
        folder += f"/{stage}" if len(cfg.launch.stages) > 1 else ""
        args = [*passed, f"run.dir={folder}", f"parallel.nproc={processes(cfg)}"]
        if cfg.launch.seeds:
            args.append(f"run.seed={SEED}")
        folders = [folder]
        if cfg.tracking.uri:
            uri = absolute_uri(cfg.tracking.uri)
            args.append(f"tracking.uri={uri}")
            folders += [str(Path(uri.removeprefix("sqlite:///")).parent)] if uri.startswith("sqlite:///") else []
        made_by = next((job for job in reversed(jobs) if job.stage != "evaluate"), None)
        base = _start(cfg, stage, made_by)
        if base:
            args.append(f"{FOLDERS[stage]}={base}")
            folders.append(base)
        if stage in FILES and (file := _set(cfg, FILES[stage])):
            args.append(f"{FILES[stage]}={Path(file).resolve()}")
            folders.append(str(Path(file).resolve().parent))
        judged = [_judged(stage, args, seed, base, made_by) for seed in seeds]
        for seed, one in zip(seeds, judged, strict=True):
            if stage != "evaluate":  # which only adds files
                refuse_other_run(one, Path(folder.replace(SEED, str(seed))))
        jobs.append(
            Job(
                stage=stage,
                args=tuple(args),
                run_dir=folder,
                after=jobs[-1].stage if jobs else None,
                run_id=_run_id(folder, bool(cfg.launch.seeds)) if stage in _RUNS else "",
                folders=tuple(folders),
                cfg=judged[0],
            )
        )
    return jobs


def _run_id(folder: str, seeds: bool) -> str:
    """That of the run which goes on in the folder, else a new one."""
    if seeds:
        return f"{uuid.uuid4().hex}-{SEED}"
    return read_json(Path(folder) / "run.json").get("run_id") or uuid.uuid4().hex


def processes(cfg: Config) -> int:
    """Processes on each node."""
    launch = cfg.launch
    asked = launch.nproc or cfg.parallel.nproc
    if launch.where is Launcher.local:
        return asked or ranks.count(cfg)
    return asked or launch.gpus_per_node or 1


def _ours(item: str) -> bool:
    """Whether the setting is for the launcher, or set for each job anew."""
    key = item.partition("=")[0]
    anew = ("run.dir", "tracking.uri", "parallel.nproc", *FOLDERS.values(), *FILES.values())
    return key == "launch" or key.startswith("launch.") or key in anew


def _start(cfg: Config, stage: str, made_by: Job | None) -> str:
    """The folder of the model that the stage starts from, absolute where it is a folder; empty: from nothing."""
    if stage not in FOLDERS:
        return ""
    if made_by is not None:
        return made_by.run_dir
    given = _set(cfg, FOLDERS[stage])
    return str(Path(given).resolve()) if given and Path(given).exists() else given


def _set(cfg: Config, key: str) -> str:
    """What a setting such as rl.checkpoint is set to."""
    section, _, name = key.partition(".")
    return getattr(getattr(cfg, section), name)


def _judged(stage: str, args: list[str], seed: int, base: str, made_by: Job | None) -> Config:
    """The job's settings as it will see them; the base that an earlier job makes need not be there yet."""
    made = made_by is None or Path(base.replace(SEED, str(seed))).exists()
    return compose(stage, [arg.replace(SEED, str(seed)) for arg in args], made=made)


def check_layout(cfg: Config, jobs: Sequence[Job]) -> int:
    """-> the processes of each job; ConfigError where a job's layout does not fit them."""
    number = cfg.launch.nodes * processes(cfg)
    if cfg.launch.where is Launcher.local and cfg.launch.nodes > 1:
        problem = "launch=local is this machine alone"
        raise ConfigError("launch.nodes", cfg.launch.nodes, problem, "set launch=slurm, or launch.nodes=1")
    for job in jobs:
        ranks.check_layout(job.cfg, number)
    return number
