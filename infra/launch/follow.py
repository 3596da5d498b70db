"""What became of a launch: `r1 launch status|logs|cancel`."""

import time
from pathlib import Path

from experiments.summary import printable
from infra.errors import R1Error
from infra.launch import record, slurm
from infra.launch.record import JobRecord, Launch
from infra.launch_config import LaunchConfig

_LOOK_EVERY_S = 5.0


def find(run_dir: Path, *, named: bool) -> Launch:
    """The newest launch from run_dir; where the user named none, from any folder in runs/. R1Error without one."""
    found = record.find(run_dir) or (None if named else record.find_newest())
    if found is None:
        where = f"run.dir={run_dir}" if named else "runs/"
        raise R1Error(f"{where}: nothing was launched from there; give the run.dir that was given to r1 launch")
    return found


def status(cfg: LaunchConfig, launch: Launch) -> int:
    """A line for each job, for a failed one also why and the end of its log; -> 1 where one failed, else 0."""
    shown: list[str] = []
    while True:
        found = slurm.states([job.id for job in launch.jobs])
        pairs = [(job, state) for job in launch.jobs for state in found[job.id]]
        lines = [_line(job, state) for job, state in pairs]
        if not shown:
            print(
                f"{launch.run_dir}: launched {launch.created}, commit {launch.commit[:12]}{' and more' * launch.dirty}"
            )
        for line in lines:
            if line not in shown:
                print(line, flush=True)
        shown = lines
        if not cfg.wait or all(state.ended for _, state in pairs):
            break
        time.sleep(_LOOK_EVERY_S)
    for job, state in pairs:
        if state.failed:
            _show_failure(cfg, launch, job, state)
    return int(any(state.failed for _, state in pairs))


def _line(job: JobRecord, state: slurm.JobState) -> str:
    parts = [f"  {state.id}  {job.stage}  {state.state}"]
    if state.restarts:
        parts.append(f"back in the queue {state.restarts} times")
    if state.reason not in ("", "None"):
        parts.append(state.reason)
    return ", ".join(parts)


def _show_failure(cfg: LaunchConfig, launch: Launch, job: JobRecord, state: slurm.JobState) -> None:
    folder = Path(job.folder)
    print(f"\njob {state.id} ({job.stage}): {slurm.why(state, folder, launch.settings())}")
    for line in slurm.tail(folder, state, cfg.lines):
        print(f"  | {printable(line)}")
    files = slurm.logs(folder, state)
    if files:
        print(f"  all of it: {files[-1]}")


def logs(cfg: LaunchConfig, launch: Launch) -> int:
    """The end of each started job's newest log, and where all of them are."""
    found = slurm.states([job.id for job in launch.jobs])
    for job in launch.jobs:
        for state in found[job.id]:
            files = slurm.logs(Path(job.folder), state)
            print(f"{_line(job, state).strip()}: {', '.join(map(str, files)) or 'has written nothing yet'}")
            for line in slurm.tail(Path(job.folder), state, cfg.lines):
                print(f"  | {printable(line)}")
    return 0


def cancel(cfg: LaunchConfig, launch: Launch) -> int:
    """End what has not ended; training saves before."""
    found = slurm.states([job.id for job in launch.jobs])
    living = [job for job in launch.jobs if not all(state.ended for state in found[job.id])]
    slurm.cancel([job.id for job in living])
    for job in living:
        print(f"job {job.id} ({job.stage}): cancelled; launch again and it goes on from its last checkpoint")
    if not living:
        print(f"{launch.run_dir}: all jobs have ended already")
    return 0


VERBS = {"status": status, "logs": logs, "cancel": cancel}
