"""The settings of `r1 launch`: where stages run, on how many nodes, under which account."""

import re
from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError

STAGES = ("pretrain", "zero", "ppo", "dpo", "evaluate", "reproduce", "cold_start", "reasoning", "rejection", "sft")
STAGES += ("all_scenarios", "distill", "r1", "reward_model", "rlaif", "long2short", "captions", "claim")
"Commands that can be a job: those that work on several processes."


class Launcher(Enum):
    """Where jobs run."""

    local = "local"
    slurm = "slurm"


class Code(Enum):
    """What a job runs of the repository; either is copied, so that later edits do not reach a waiting job."""

    commit = "commit"
    tree = "tree"


@dataclass(kw_only=True, slots=True)
class LaunchConfig:
    """How `r1 launch` runs stages: here, or as SLURM jobs through NeMo-Run."""

    where: Launcher = Launcher.local
    "local (this machine, in the foreground) or slurm; launch=slurm also takes the usual settings of GPU nodes."
    stages: list[str] = field(default_factory=lambda: ["pretrain"])
    """Commands to run, each when the one before has ended well, on its model: [pretrain,zero,evaluate]. With an
    experiment of its own: [pretrain@v3_pretrain,pretrain@v3_extend_32k]."""
    seeds: list[int] = field(default_factory=list)
    "Run everything once for each of these seeds, in run.dir/seed_<n>; on SLURM as a job array."
    nodes: int = 1
    "Nodes of each job."
    nproc: int = 0
    "Processes on each node, one for each GPU; 0 takes gpus_per_node, or here the scale's own number."
    gpus_per_node: int = 0
    "GPUs to ask for on each node; 0 asks for none."
    cpus_per_task: int = 0
    "Cores for each process; 0 leaves it to SLURM."
    memory: str = ""
    "Memory of each node, as 64G; 0 for all of it, empty for SLURM's default."
    account: str = ""
    "Account that pays; empty: SLURM's default for you."
    partition: str = ""
    "Partition; empty: SLURM's default."
    qos: str = ""
    "Quality of service; empty: SLURM's default."
    time: str = "04:00:00"
    "Time limit of a job, as hours:minutes:seconds or days-hours. A job that needs more goes on by itself (see below)."
    save_before_s: int = 300
    "Seconds before the time limit at which a job is told to save; it then goes back into the queue, and on from there."
    requeues: int = 100
    "How often a job may go back into the queue."
    exclusive: bool = False
    "Whether nodes are shared with no other job."
    sbatch: dict[str, str] = field(default_factory=dict)
    "More options of sbatch, as {constraint: h100, spread-job: ''}; '' for one without a value."
    srun: dict[str, str] = field(default_factory=dict)
    "More options of the srun that starts the processes, as {mpi: pmix}."
    modules: list[str] = field(default_factory=list)
    "Environment modules to load first: [cuda/13.0]."
    env: dict[str, str] = field(default_factory=dict)
    "Environment variables of the job, written into its script. Yours are inherited: keep secrets there."
    setup: list[str] = field(default_factory=list)
    "Lines of shell to run first on the job's first node."
    container: str = ""
    "Image for Pyxis, as nvcr.io#nvidia/pytorch:26.03-py3 or a .sqsh file; empty: this Python environment."
    mounts: list[str] = field(default_factory=list)
    "More folders for the container, as /data:/data; those of the run are mounted by themselves."
    code: Code = Code.commit
    "commit: HEAD, refused while files differ from it; tree: the files as they are now, new ones included."
    dry_run: bool = False
    "Whether to write and show scripts and settings only, and submit nothing."
    wait: bool = False
    "Whether to stay until the jobs have ended."
    lines: int = 30
    "How many lines of a log are shown."

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage.partition("@")[0] not in STAGES:
                raise ConfigError("launch.stages", stage, "is no stage", f"choose from {', '.join(STAGES)}")
        if not self.stages:
            raise ConfigError("launch.stages", "[]", "there is nothing to run", "set launch.stages=[pretrain]")
        names = [stage.partition("@")[2] or stage for stage in self.stages]
        for key, values in (("stages", names), ("seeds", self.seeds)):
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ConfigError(f"launch.{key}", twice[0], "is there twice", "name each once")
        if any(seed < 0 for seed in self.seeds):
            raise ConfigError("launch.seeds", min(self.seeds), "is negative", "set seeds from 0")
        for key in ("nodes", "lines"):
            if getattr(self, key) < 1:
                raise ConfigError(f"launch.{key}", getattr(self, key), "has to be positive", "set at least 1")
        for key in ("nproc", "gpus_per_node", "cpus_per_task", "save_before_s", "requeues"):
            if getattr(self, key) < 0:
                raise ConfigError(f"launch.{key}", getattr(self, key), "cannot be negative", "set 0 or more")
        limit = seconds(self.time)
        if not limit:
            problem, remedy = "is no time limit", "write hours:minutes:seconds or days-hours"
            raise ConfigError("launch.time", self.time, problem, remedy)
        if self.save_before_s >= limit:
            problem = f"leaves nothing of launch.time={self.time} ({limit:.0f} s)"
            raise ConfigError("launch.save_before_s", self.save_before_s, problem, "set less, or a longer launch.time")
        _check_words(self)


def _check_words(cfg: LaunchConfig) -> None:
    """What ends up in a shell script unquoted has to be a word."""
    for key, values, pattern, remedy in (
        ("env", cfg.env, r"[A-Z_][A-Z0-9_]*", "name it in capitals, as NCCL_DEBUG"),
        ("sbatch", cfg.sbatch, r"[a-z][a-z0-9-]*", "write an option of sbatch without the dashes before it"),
        ("srun", cfg.srun, r"[a-z][a-z0-9-]*", "write an option of srun without the dashes before it"),
        ("modules", cfg.modules, r"[\w./+-]+", "give the name that `module avail` shows"),
    ):
        for name in values:
            if not re.fullmatch(pattern, name):
                raise ConfigError(f"launch.{key}", name, "is no name", remedy)


def seconds(limit: str) -> float | None:
    """SLURM's "minutes", "hours:minutes:seconds", "days-hours:..." in seconds; inf for no limit, None for another text.

    >>> seconds("90"), seconds("01:30:00"), seconds("1-12"), seconds("infinite")
    (5400.0, 5400.0, 129600.0, inf)
    """
    if limit.lower() in ("infinite", "unlimited"):
        return float("inf")
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not found:
        return None
    days, *parts = [int(part or 0) for part in found.groups()]
    if found[1] is None and found[4] is None:  # minutes, or minutes:seconds
        parts = [0, *parts[:2]]
    return float(days * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2])
