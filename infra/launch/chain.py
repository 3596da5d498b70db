"""Settings of `r1 launch` -> a chain of jobs: which command runs where, on what folder, after which other."""

import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import overrides
from experiments.config import GROUPS, Config, compose
from experiments.kept_config import refuse_other_run
from experiments.lineage import ACCEPTS
from experiments.reads import FOLDERS, MODELS, SETS
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
    name: str
    "What tells it from the others: its experiment where it has one of its own, else the stage."
    args: tuple[str, ...]
    "Its settings; SEED stands for the seed."
    run_dir: str
    "Its folder, absolute; SEED stands for the seed."
    after: str | None
    "The name of the job that has to end well before it."
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

    cfg: settings of `r1 launch`; given: the same as typed. Several stages get a folder each, run.dir/<name>; a stage
    starts from the newest model that is made before it, and that it takes (R1 §2.3: the base for an SFT), and reads the
    newest set. Raises ConfigError, also where a folder holds another run.
    """
    root = Path(cfg.run.dir).resolve()
    seeds = cfg.launch.seeds or [cfg.run.seed]
    passed = [item for item in overrides.full(given, "launch", Config, GROUPS) if not _ours(item)]
    if cfg.launch.seeds:
        passed = [item for item in passed if not item.startswith("run.seed=")]
    jobs: list[Job] = []
    for entry in cfg.launch.stages:
        stage, _, experiment = entry.partition("@")
        name = experiment or stage
        folder = str(root / f"seed_{SEED}" if cfg.launch.seeds else root)
        folder += f"/{name}" if len(cfg.launch.stages) > 1 else ""
        own = [item for item in passed if not (experiment and item.startswith("experiment="))]
        own += [f"experiment={experiment}"] if experiment else []
        args = [*own, f"run.dir={folder}", f"parallel.nproc={processes(cfg)}"]
        if cfg.launch.seeds:
            args.append(f"run.seed={SEED}")
        folders = [folder]
        if cfg.tracking.uri:
            uri = absolute_uri(cfg.tracking.uri)
            args.append(f"tracking.uri={uri}")
            folders += [str(Path(uri.removeprefix("sqlite:///")).parent)] if uri.startswith("sqlite:///") else []
        asked = compose(stage, own, ready=False) if experiment else cfg
        data, waits = _data(asked, stage, jobs)
        base = _start(asked, stage, jobs)
        if base:
            args.append(f"{FOLDERS[stage]}={base}")
            folders.append(base)
        if data:
            args.append(f"{SETS[stage][0]}={data}")
            folders.append(str(Path(data).parent))
        made = [job.run_dir for job in jobs]
        judged = [_judged(stage, args, seed, base if base in made else "", data if waits else "") for seed in seeds]
        for seed, one in zip(seeds, judged, strict=True):
            if stage != "evaluate":  # which only adds files
                refuse_other_run(one, Path(folder.replace(SEED, str(seed))))
        jobs.append(
            Job(
                stage=stage,
                name=name,
                args=tuple(args),
                run_dir=folder,
                after=jobs[-1].name if jobs else None,
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
    anew = ("run.dir", "tracking.uri", "parallel.nproc", *FOLDERS.values(), *(reads[0] for reads in SETS.values()))
    return key == "launch" or key.startswith("launch.") or key in anew


def _start(cfg: Config, stage: str, jobs: Sequence[Job]) -> str:
    """The folder of the model that the stage starts from, absolute where it is a folder; empty: from nothing.

    Of several jobs the last whose model the stage takes. What is trained on a set of the chain starts from what was
    given, if anything was: R1's SFT trains the base again, and not the model that wrote the set.
    """
    if stage not in FOLDERS:
        return ""
    given = _set(cfg, FOLDERS[stage])
    takes = ACCEPTS.get(stage, MODELS)
    made = next((job.run_dir for job in reversed(jobs) if job.stage in takes and job.stage in MODELS), "")
    if made and not (given and stage in ("sft", "distill")):
        return made
    if given.startswith("hf:"):  # an experiment's own, which the job reads there
        return ""
    return str(Path(given).resolve()) if given and Path(given).exists() else given


def _data(cfg: Config, stage: str, jobs: Sequence[Job]) -> tuple[str, bool]:
    """-> (the set that the stage reads, absolute; empty for none, whether a job of the chain makes it)."""
    if stage not in SETS:
        return "", False
    key, maker, file = SETS[stage]
    made = next((job.run_dir for job in reversed(jobs) if job.stage == maker), "")
    given = _set(cfg, key)
    return (f"{made}/{file}", True) if made else (str(Path(given).resolve()) if given else "", False)


def _set(cfg: Config, key: str) -> str:
    """What a setting such as rl.checkpoint is set to."""
    section, _, name = key.partition(".")
    return getattr(getattr(cfg, section), name)


def _judged(stage: str, args: list[str], seed: int, base: str, data: str) -> Config:
    """The job's settings as it will see them; base and data: what earlier jobs make, which need not be there yet."""
    made, written = (not path or Path(path.replace(SEED, str(seed))).exists() for path in (base, data))
    return compose(stage, [arg.replace(SEED, str(seed)) for arg in args], made=made, data=written)


def check_layout(cfg: Config, jobs: Sequence[Job]) -> int:
    """-> the processes of each job; ConfigError where a job's layout does not fit them."""
    number = cfg.launch.nodes * processes(cfg)
    if cfg.launch.where is Launcher.local and cfg.launch.nodes > 1:
        problem = "launch=local is this machine alone"
        raise ConfigError("launch.nodes", cfg.launch.nodes, problem, "set launch=slurm, or launch.nodes=1")
    for job in jobs:
        ranks.check_layout(job.cfg, number)
    return number
