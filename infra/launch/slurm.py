"""Questions to SLURM: can the jobs run, how are they, what did they write, why did they end. No NeMo-Run in it."""

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError, R1Error
from infra.launch_config import LaunchConfig, seconds

_LOCAL_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}
ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "UNKNOWN",
}
"States that a job does not leave; UNKNOWN: SLURM has forgotten it."
_WAITS_AGAIN = {"REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "PREEMPTED"}
_MEMORY = re.compile(r"exceeded (job |step )?memory limit|oom[-_ ]?kill|out of memory", re.I)
_KILLED = re.compile(r"task \S+ Killed$|tasks \S+ Killed$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job, or one of an array, as SLURM sees it."""

    id: str
    "12, or 12_3 for an array's task."
    raw: str
    "The number in the names of its logs: of an array's task its own."
    state: str
    "RUNNING, PENDING, COMPLETED, ..."
    status: int = 0
    "Exit status of its script; 128 and more: the signal that ended it."
    restarts: int = 0
    "How often it went back into the queue."
    reason: str = ""
    "What it waits for, or never got."
    elapsed: str = ""
    "How long it has run since it was last started."

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    @property
    def failed(self) -> bool:
        """Whether it ended, and not well."""
        return self.ended and self.state != "COMPLETED"


def check(cfg: LaunchConfig) -> None:
    """Raise ConfigError or R1Error where SLURM is not there, or has not what is asked for."""
    missing = [name for name in ("sbatch", "srun", "sinfo", "scontrol", "scancel") if not shutil.which(name)]
    if missing:
        problem = f"there is no SLURM here ({', '.join(missing)} not found)"
        remedy = "log in to a node of the cluster, or set launch=local; dry_run=true shows the script anywhere"
        raise ConfigError("launch", "slurm", problem, remedy)
    rows = [line.split("|") for line in _ask("sinfo", "--noheader", "--format=%P|%D|%l").splitlines()]
    partitions = {row[0].rstrip("*"): row for row in rows}
    wanted = [name for name in cfg.partition.split(",") if name]
    for name in wanted:
        if name not in partitions:
            choice = f"choose one of {', '.join(sorted(partitions))}"
            raise ConfigError("launch.partition", name, "there is no such partition", choice)
    wanted = wanted or [row[0].rstrip("*") for row in rows if row[0].endswith("*")]
    if wanted:
        nodes = {name: sum(int(row[1]) for row in rows if row[0].rstrip("*") == name) for name in wanted}
        if cfg.nodes > max(nodes.values()):
            has = ", ".join(f"partition {name} has {number}" for name, number in nodes.items())
            raise ConfigError("launch.nodes", cfg.nodes, f"{has}", f"set at most {max(nodes.values())}")
        limit = max(wanted, key=lambda name: seconds(partitions[name][2]) or 0.0)
        if seconds(cfg.time) > (seconds(partitions[limit][2]) or float("inf")):
            most = partitions[limit][2]
            problem = f"partition {limit} allows {most}"
            raise ConfigError(
                "launch.time", cfg.time, problem, f"set launch.time={most}: longer jobs go on by themselves"
            )
    _check_account(cfg)


def _check_account(cfg: LaunchConfig) -> None:
    """Raise ConfigError for an account that the user may not use, as far as SLURM keeps accounts."""
    if not cfg.account or not shutil.which("sacctmgr"):
        return
    user = _run("id", "--user", "--name").stdout.strip()
    asked = _run("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=account")
    accounts = sorted(set(asked.stdout.split()))
    if asked.returncode == 0 and accounts and cfg.account not in accounts:
        problem = f"is no account of {user}"
        raise ConfigError("launch.account", cfg.account, problem, f"choose one of {', '.join(accounts)}")


def disk_of_one_machine(folder: Path) -> str:
    """The kind of disk under an existing folder where it is a disk of this machine, and the cluster has others.

    Empty for a file system of the network, which all nodes may see.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = {str(folder), *map(str, folder.parents)}
    kind = max((mount for mount in mounts if mount[1] in above), key=lambda mount: len(mount[1]))[2]
    hosts = set(_ask("sinfo", "--noheader", "--Node", "--format=%n").split())
    here = socket.gethostname()
    elsewhere = hosts - {here, here.partition(".")[0], "localhost"}
    return kind if kind in _LOCAL_DISKS and elsewhere else ""


def states(ids: list[str]) -> dict[str, list[JobState]]:
    """Each of these jobs by the id that sbatch gave, an array as all of its tasks."""
    return {job: _from_controller(job) or _from_accounting(job) or [_forgotten(job)] for job in ids}


def _forgotten(job: str) -> JobState:
    return JobState(id=job, raw=job, state="UNKNOWN", reason="SLURM has forgotten it")


def _from_controller(job: str) -> list[JobState]:
    """What slurmctld knows: all of a living job, and of an ended one for some minutes."""
    said = _run("scontrol", "--oneliner", "--all", "show", "job", job)
    if said.returncode != 0 and "contact" in said.stderr:
        raise R1Error(f"SLURM does not answer ({_last(said.stderr)}); see whether slurmctld runs")
    found = []
    for line in said.stdout.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" not in facts:
            continue
        index = facts.get("ArrayTaskId", "")
        state = "PENDING" if facts["JobState"] in _WAITS_AGAIN else facts["JobState"]
        reason = facts.get("Reason", "")
        told = state == "PENDING" or (state == "CANCELLED" and reason.startswith("Dependency"))
        found.append(
            JobState(
                id=f"{job}_{index}" if index else job,
                raw=facts["JobId"],
                state=state,
                status=_status(facts.get("ExitCode", "0:0")),
                restarts=int(facts.get("Restarts", "0")),
                reason=reason if told else "",
                elapsed=facts.get("RunTime", ""),
            )
        )
    return sorted(found, key=lambda one: [int(number) for number in re.findall(r"\d+", one.id)])


def _from_accounting(job: str) -> list[JobState]:
    """What slurmdbd keeps, where a cluster has it: a line for each time that the job was started."""
    if not shutil.which("sacct"):
        return []
    form = "--format=JobID,JobIDRaw,State,ExitCode,Elapsed"
    said = _run("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", form, f"--jobs={job}")
    found: dict[str, JobState] = {}
    for line in said.stdout.splitlines():
        name, raw, state, code, elapsed = line.split("|")
        before = found.get(name)
        found[name] = JobState(
            id=name,
            raw=raw,
            state=state.split()[0],  # "CANCELLED by 0"
            status=_status(code),
            restarts=before.restarts + 1 if before else 0,
            elapsed=elapsed,
        )
    return list(found.values())


def _status(code: str) -> int:
    """SLURM's "status:signal" as a shell's status."""
    status, _, number = code.partition(":")
    return 128 + int(number) if int(number or 0) else int(status)


def cancel(ids: list[str]) -> None:
    """End jobs, those that wait for them too; training saves first, within SLURM's KillWait."""
    if ids:
        _ask("scancel", *ids)


def logs(folder: Path, job: JobState) -> list[Path]:
    """What the job wrote: of the script itself first, then what its processes wrote, each time it was started."""
    own = sorted(folder.glob(f"sbatch_*_{job.id}.out"))
    return own + sorted(folder.glob(f"log-*_{job.raw}_*.out"), key=lambda path: int(path.stem.rpartition("_")[2]))


def tail(folder: Path, job: JobState, lines: int) -> list[str]:
    """The end of what its processes wrote, with what SLURM says of them."""
    files = logs(folder, job)
    written = [path for path in files if path.name.startswith("log-")]
    last = _lines(written[-1])[-lines:] if written else []
    told = re.compile(r"^(srun|slurmstepd\S*|sbatch): |^r1 launch: |^launch\.|: command not found")
    said = [line for path in files if path not in written for line in _lines(path) if told.search(line)]
    return [*last, *said[-5:]]


def why(job: JobState, folder: Path, cfg: LaunchConfig) -> str:
    """What happened to a job that did not end well, and what to do."""
    text = "\n".join(tail(folder, job, 200))
    if job.state == "OUT_OF_MEMORY" or _MEMORY.search(text):
        less = "lower pretrain.micro_batch_tokens or rl.micro_batch_tokens, or use more nodes"
        if cfg.memory == "0":
            return f"killed for want of memory, with all that a node has: {less}"
        asked = f"launch.memory={cfg.memory}" if cfg.memory else "SLURM's default (launch.memory)"
        return f"killed for want of memory: ask for more than {asked}, {less}"
    if job.state == "TIMEOUT":
        problem = f"launch.time={cfg.time} was over before it had saved, {cfg.save_before_s} s after it was told to"
        return f"{problem}: set a larger launch.save_before_s or a longer launch.time, and launch again: it goes on"
    if job.state == "CANCELLED" and job.reason.startswith("Dependency"):
        return "never started, as the job before it did not end well"
    if job.state == "CANCELLED":
        return "cancelled; launch again and it goes on from its last checkpoint"
    if job.state == "UNKNOWN":
        return job.reason
    if _KILLED.search(text):
        return "a process was killed by SIGKILL, for want of memory most likely: ask for more (launch.memory)"
    return f"ended with status {job.status}"


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:  # logs grow large; the end is enough
        file.seek(max(0, path.stat().st_size - 200_000))
        return file.read().decode(errors="replace").splitlines()


def _ask(*command: str) -> str:
    """What SLURM answers; R1Error with its own last line where it does not."""
    done = _run(*command)
    if done.returncode != 0:
        raise R1Error(f"SLURM does not answer {command[0]}: {_last(done.stderr)}; see whether slurmctld runs")
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise R1Error(f"there is no {command[0]} here, so no SLURM; log in to a node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise R1Error(f"SLURM did not answer {command[0]} within a minute; try again later") from None


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
