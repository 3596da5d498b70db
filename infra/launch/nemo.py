"""NeMo-Run's part: jobs -> sbatch scripts beside a copy of the code, handed to SLURM. Importing this takes seconds.

The processes of a job are tasks of srun, one for each GPU, and not torchrun's: torchrun dies of SIGUSR1 and leaves its
workers behind, while srun hands every task the signal that tells training to save.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nemo_run as run
from invoke.exceptions import UnexpectedExit

from experiments.config import Config
from infra.errors import ConfigError, R1Error
from infra.launch import slurm
from infra.launch.chain import SEED, Job, processes, words
from infra.launch.code import Snapshot
from infra.launch_config import LaunchConfig
from infra.stopping import STOP_FILE

_NOT_SEEN, _NO_MODULE, _NOT_DONE = 73, 74, 85
"Exit statuses of a script: a node lacks something; no such module; told to stop, and not let back into the queue."
_BY_USR1 = 128 + 10
_WAIT_S = 1800
"For rank 0, which draws and reports when the others have left; NeMo-Run gives it a minute."
_REWRITTEN = "/nemo_run"


@dataclass(kw_only=True)
class TreePackager(run.Packager):
    """Packs a tree of git; NeMo-Run's own packager takes commits only, and works inside the repository."""

    root: str
    tree: str

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Called by NeMo-Run; -> the archive, which it unpacks into job_dir/code."""
        archive = f"{job_dir}/{name}.tar.gz"
        subprocess.run(["git", "-C", self.root, "archive", "--format=tar.gz", "-o", archive, self.tree], check=True)
        return archive


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of the jobs."""

    folder: Path
    "Where scripts and logs are; each job has a folder of its name in it."
    ids: list[str]
    "SLURM's ids in the order of the jobs; none after a dry run."

    def script(self, name: str) -> Path:
        """What sbatch gets."""
        return self.folder / f"{name}_sbatch.sh"


def submit(cfg: Config, jobs: list[Job], snapshot: Snapshot, folder: Path, name: str) -> Submitted:
    """Write the scripts under `folder` and submit them; with launch.dry_run only write them.

    name: what the jobs are called in the queue, before their stage. R1Error where sbatch refuses one: then the others
    are taken back, so that a chain is submitted whole or not at all.
    """
    experiment = run.Experiment(
        "jobs",
        base_dir=str(folder),
        log_level="WARNING",
        clean_mode=True,
        enable_goodbye_message=False,
        skip_status_at_exit=True,
        serialize_metadata_for_scripts=False,
    )
    place = Path(experiment._exp_dir)
    with experiment:
        for job in jobs:
            executor = _executor(cfg, job, snapshot, folder, place / job.name, name)
            words = [_past_template(word) for word in job.shell()]
            script = run.Script(path="infra.cli", m=True, entrypoint=_python(cfg.launch), args=words)
            experiment.add(script, executor=executor, name=job.name, dependencies=[job.after] if job.after else None)
        if cfg.launch.dry_run:
            experiment.dryrun(log=False, delete_exp_dir=False)
            return Submitted(place, [])
        try:
            experiment.run(detach=True)
        except UnexpectedExit as error:
            slurm.cancel([_id(job.handle) for job in experiment.jobs if job.handle])
            said = [line for line in error.result.stderr.splitlines() if line.strip()]
            reason = said[-1].removeprefix("sbatch: error: ") if said else f"it ended with {error.result.exited}"
            raise R1Error(f"launch=slurm: sbatch refuses: {reason}; {_hint(reason)}nothing was submitted") from None
        return Submitted(place, [_id(job.handle) for job in experiment.jobs])


def _hint(reason: str) -> str:
    """What to look at, where SLURM does not say what of it is too much."""
    if "node configuration" not in reason:
        return ""
    return "no node has that much: lower launch.memory, nproc, cpus_per_task or gpus_per_node; "


def _id(handle: str) -> str:
    """SLURM's id from NeMo-Run's handle, as slurm_tunnel://nemo_run/123."""
    return handle.rpartition("/")[2]


def _executor(cfg: Config, job: Job, snapshot: Snapshot, folder: Path, job_dir: Path, name: str) -> run.SlurmExecutor:
    launch = cfg.launch
    if any(_REWRITTEN in text for text in (*job.folders, *job.args)):  # it means its own folder by that
        problem = f"NeMo-Run puts another path in the place of {_REWRITTEN}"
        raise ConfigError("run.dir", job.run_dir, problem, "give no folder a name that begins with nemo_run")
    return run.SlurmExecutor(
        account=launch.account or None,
        partition=launch.partition or None,
        qos=launch.qos or None,
        time=launch.time,
        nodes=launch.nodes,
        ntasks_per_node=processes(cfg),
        gpus_per_node=launch.gpus_per_node or None,
        cpus_per_task=launch.cpus_per_task or None,
        mem=launch.memory or None,
        exclusive=launch.exclusive or None,
        # Without "B:" it goes to the tasks and not to the script, which would see it only when they have ended.
        signal=f"USR1@{launch.save_before_s}",
        array=",".join(map(str, launch.seeds)) or None,
        dependency_type="aftercorr" if launch.seeds else "afterok",
        additional_parameters={
            "requeue": True,
            "kill-on-invalid-dep": "yes",
            **{key: value or True for key, value in launch.sbatch.items()},
        },
        srun_args=[
            f"--wait={_WAIT_S}",
            *(f"--{key}={value}" if value else f"--{key}" for key, value in launch.srun.items()),
        ],
        container_image=launch.container or None,
        container_mounts=_mounts(launch, job),
        env_vars={key: _past_template(value) for key, value in _environment(launch, job, snapshot, job_dir).items()},
        setup_lines="\n".join(_setup(launch, job, job_dir)),
        packager=TreePackager(root=snapshot.root, tree=snapshot.tree),
        tunnel=run.LocalTunnel(job_dir=str(folder / "experiments")),
        job_name_prefix=f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}.",
        launcher=None,
        retries=0,
        poll_estimated_start_time=False,
    )


def _past_template(text: str) -> str:
    """NeMo-Run fills its own names into $name, and makes $$ a $."""
    return text.replace("$", "$$")


def _python(launch: LaunchConfig) -> str:
    return "python" if launch.container else shlex.quote(sys.executable)


def _mounts(launch: LaunchConfig, job: Job) -> list[str]:
    """The container sees the run's folders where they are; of a folder with a seed in its name, what lies above."""
    places = {place.partition(f"/seed_{SEED}")[0] for place in job.folders if place.startswith("/")}
    return [*(f"{place}:{place}" for place in sorted(places)), *launch.mounts]


def _environment(launch: LaunchConfig, job: Job, snapshot: Snapshot, job_dir: Path) -> dict[str, str]:
    """Name -> value as the shell reads it; the cluster's, and the user's own, which win."""
    ours = {"R1_COMMIT": snapshot.commit, "R1_DIRTY": str(int(snapshot.dirty)), "R1_LOGS": str(job_dir)}
    expanded = {STOP_FILE: f'{shlex.quote(str(job_dir))}/stopped_"$SLURM_JOB_ID"'}
    if job.run_id:
        expanded["R1_RUN_ID"] = words(job.run_id)
    return expanded | {key: shlex.quote(value) for key, value in (ours | job.cfg.cluster.env | launch.env).items()}


def _setup(launch: LaunchConfig, job: Job, job_dir: Path) -> list[str]:
    """What the script does before it starts the processes."""
    modules = [
        f"module load {module} || {{ echo 'launch.modules={module}: cannot be loaded'; exit {_NO_MODULE}; }}"
        for module in launch.modules
    ]
    silence = "{ set +vx; } 2>/dev/null"  # NeMo-Run has the shell repeat every line
    return [silence, _requeue(launch), *modules, *launch.setup, _look(launch, job, job_dir)]


def _requeue(launch: LaunchConfig) -> str:
    """Back into the queue when training was told to stop and has saved, or was told before Python could listen.

    Not when SLURM ends the script itself: a job that was cancelled stays cancelled. An array's task is named by array
    and index, as the bare id of one of them is that of the whole array.
    """
    return f"""
r1_requeue() {{
    status=$?
    trap - TERM
    if [ $status = {_BY_USR1} ] || {{ [ $status = 0 ] && [ -e "${STOP_FILE}" ]; }}; then
        rm -f "${STOP_FILE}"
        if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {launch.requeues} ]; then
            echo "r1 launch: told to stop, going back into the queue"
            job="${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
            scontrol requeue "$job" && sleep 60
        else
            echo "r1 launch: told to stop, and launch.requeues={launch.requeues} times in the queue already"
        fi
        exit {_NOT_DONE}
    fi
}}
trap 'exit 143' TERM
trap r1_requeue EXIT"""


def _look(launch: LaunchConfig, job: Job, job_dir: Path) -> str:
    """Every node looks for the run's folder, the code and the Python before anything starts on any of them."""
    root = job.run_dir.partition(f"/seed_{SEED}")[0]
    needed = [root, f"{job_dir}/code/infra"] + ([] if launch.container else [sys.executable])
    look = (
        'for path in "$@"; do [ -e "$path" ] || { echo "r1 launch: $(hostname) does not see $path,'
        f' which has to be in a folder that all nodes share"; exit {_NOT_SEEN}; }}; done; '
        f'[ -w "$1" ] || {{ echo "r1 launch: $(hostname) cannot write to $1"; exit {_NOT_SEEN}; }}'
    )
    paths = " ".join(shlex.quote(path) for path in needed)
    everywhere = "srun --nodes=$SLURM_NNODES --ntasks=$SLURM_NNODES --ntasks-per-node=1 --kill-on-bad-exit=1"
    return f"{everywhere} sh -c {shlex.quote(look)} look {paths} || exit {_NOT_SEEN}"
