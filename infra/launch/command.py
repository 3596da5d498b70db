"""`r1 launch`, `r1 launch status|logs|cancel`: settings -> checks -> scripts -> jobs, or what became of them."""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from experiments.config import Config, to_dict
from infra.errors import ConfigError, R1Error
from infra.launch import follow, here, record, slurm
from infra.launch.chain import Job, chain, check_layout
from infra.launch.code import Snapshot, snapshot
from infra.launch.record import JobRecord, Launch
from infra.launch_config import LaunchConfig, Launcher
from infra.progress import say


def run(cfg: Config, verb: str, given: Sequence[str]) -> int:
    """The command; -> exit status. verb: "", status, logs or cancel; given: the settings as typed."""
    if verb:
        named = any(item.startswith("run.dir=") for item in given)
        return follow.VERBS[verb](cfg.launch, follow.find(Path(cfg.run.dir), named=named))
    jobs = chain(cfg, given)
    number = check_layout(cfg, jobs)
    if cfg.launch.where is Launcher.local:
        if not cfg.launch.dry_run:
            return here.run(jobs, cfg.launch.seeds or [cfg.run.seed])
        for seed in cfg.launch.seeds or [cfg.run.seed]:
            for job in jobs:
                print("r1", shlex.join(job.command(seed)))
        _show_settings(jobs)
        return 0
    return _submit(cfg, jobs, number, given)


def _submit(cfg: Config, jobs: list[Job], number: int, given: Sequence[str]) -> int:
    """Check everything, write the scripts, submit them. Nothing is submitted where a check fails."""
    launch, root = cfg.launch, Path(cfg.run.dir).resolve()
    folder = root / record.FOLDER
    _check_cluster(launch, jobs, number)
    if not launch.dry_run:
        slurm.check(launch)
        _refuse_second(root)
    code = snapshot(launch.code)
    _make(folder, jobs, cfg)
    if not launch.dry_run:
        disk = slurm.disk_of_one_machine(root)
        if disk:
            say(f"warning: run.dir={root} is on a disk of this machine ({disk}); nodes that do not see it end the job")
    os.environ.setdefault("NEMORUN_HOME", str(folder))  # read at import; else it keeps notes in ~/.nemo_run
    with _aside(folder / "nemo_run.log"):
        try:
            from infra.launch import nemo
        except ImportError as error:
            raise R1Error(f"NeMo-Run cannot be imported ({error}); run make setup") from None
        done = nemo.submit(cfg, jobs, code, folder, cfg.run.name or root.name)
    for job in jobs:
        (done.folder / f"{job.name}.yaml").write_text(_settings(job))
    if launch.dry_run:
        for job in jobs:
            script = done.script(job.name)
            print(f"# {script}\n{script.read_text()}")
        _show_settings(jobs)
        _show_plans(jobs, number)
        say(f"nothing was submitted; scripts and settings are in {done.folder}")
        return 0
    kept = _record(cfg, jobs, code, given, done.folder, done.ids)
    record.save(kept, done.folder)
    nodes = f"{launch.nodes} node{'s' if launch.nodes > 1 else ''}, {number} process{'es' if number > 1 else ''}"
    for job in kept.jobs:
        run_id = f", MLflow's tag run_id={job.run_id}" if job.run_id else ""
        print(f"job {job.id}: {job.stage} on {nodes}, in {job.run_dir}{run_id}")
    print(f"r1 launch status run.dir={cfg.run.dir}; r1 launch logs run.dir={cfg.run.dir}")
    return follow.status(cfg.launch, kept) if launch.wait else 0


def _check_cluster(launch: LaunchConfig, jobs: list[Job], number: int) -> None:
    """Raise ConfigError where the nodes are not the cluster whose layout and variables were taken by cluster=..."""
    gpus = jobs[0].cfg.cluster.gpus
    if jobs[0].cfg.cluster.env and gpus != number:
        each = number // launch.nodes
        nodes = f"launch.nodes={gpus // each} or " if gpus % each == 0 else ""
        raise ConfigError("cluster.gpus", gpus, f"the job has {number} processes", f"set {nodes}cluster.gpus={number}")


def _show_plans(jobs: list[Job], number: int) -> None:
    """What `r1 plan` says of the pre-training on these nodes, where cluster=... says what they are."""
    for job in jobs:
        if job.stage == "pretrain" and job.cfg.cluster.env:
            from infra.planner import plan, report
            from infra.planner.config import PlanConfig

            cfg = job.cfg
            row = cfg.model.max_position_embeddings
            rows = max(1, cfg.pretrain.batch_tokens // row)
            tokens = float(cfg.pretrain.tokens)
            settings = dataclasses.replace(cfg.plan, tokens=tokens, global_batch=rows, seq_len=row)
            asked = PlanConfig(model=cfg.model, parallel=cfg.parallel, cluster=cfg.cluster, settings=settings)
            print(f"# r1 plan, {number} GPUs\n{report.table(plan.plan(asked))}")


def _make(folder: Path, jobs: list[Job], cfg: Config) -> None:
    """Make the run's folders, on which the nodes then insist; ConfigError where they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for seed in cfg.launch.seeds or [cfg.run.seed]:
            for job in jobs:
                job.folder(seed).mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem, remedy = f"cannot be written ({error.strerror})", "set a folder that you may write and all nodes share"
        raise ConfigError("run.dir", cfg.run.dir, problem, remedy) from None


def _refuse_second(root: Path) -> None:
    """R1Error where jobs of an earlier launch are still at work in the folder."""
    before = record.find(root)
    if before is None:
        return
    found = slurm.states([job.id for job in before.jobs])
    living = [one.id for states in found.values() for one in states if not one.ended]
    if living:
        cancel_first = f"wait, cancel (r1 launch cancel run.dir={root}), or choose another run.dir"
        raise R1Error(f"run.dir={root}: job {', '.join(living)} is at work there; {cancel_first}")


def _record(cfg: Config, jobs: list[Job], code: Snapshot, given: Sequence[str], folder: Path, ids: list[str]) -> Launch:
    return Launch(
        run_dir=str(Path(cfg.run.dir).resolve()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=code.commit,
        dirty=code.dirty,
        tree=code.tree,
        command=["r1", "launch", *given],
        time=cfg.launch.time,
        save_before_s=cfg.launch.save_before_s,
        memory=cfg.launch.memory,
        jobs=[
            JobRecord(stage=job.name, id=number, folder=str(folder / job.name), run_dir=job.run_dir, run_id=job.run_id)
            for job, number in zip(jobs, ids, strict=True)
        ],
    )


def _settings(job: Job) -> str:
    return yaml.safe_dump(to_dict(job.cfg), sort_keys=False, allow_unicode=True)


def _show_settings(jobs: list[Job]) -> None:
    for job in jobs:
        print(f"# r1 {job.stage}: all settings\n{_settings(job)}")


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[None]:
    """What libraries and their programs write goes to a file, and they read nothing: the terminal is the user's."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, typed = (os.dup(1), os.dup(2)), sys.stdin
    with path.open("a") as file, open(os.devnull) as nothing:
        sys.stdin = nothing
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            sys.stdin = typed
            file.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)
