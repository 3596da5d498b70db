"""Runs arms: each (arm, seed) once, in a folder of its own, by the commands a user would type; several processes share.

What is done has a raw result, a small JSON that is committed; it is not run again. What was cut short goes on.
A run that diverged has a raw result, too, without numbers: a verdict that does not know of it would be the survivors'.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.claims import quantities
from experiments.claims.arms import DECODE, Run
from experiments.reads import FOLDERS
from infra.commands import RANK_COMMAND
from infra.errors import R1Error, TrainingDiverged
from infra.files import lock, read_json, write_json
from infra.progress import say
from infra.tracking import git_state

LOOK_EVERY_S = 2.0
"Seconds between looks at what other processes are at."


class Failed(R1Error):
    """A command of a run did not end well."""


class Diverged(Failed):
    """Training diverged, and would again."""


def run_all(work: Sequence[tuple[Run, int]], runs: Path, results: Path) -> dict[str, str]:
    """Do all of it, but what is done or what other processes are at; -> arm/seed -> why it failed.

    A failure stops what builds on it, and nothing else.
    """
    waiting, failed = [(run, seed) for run, seed in work if not raw_path(results, run, seed).exists()], {}
    while waiting:
        held = []
        for run, seed in waiting:
            label = f"{run.arm}/seed{seed}"
            broken = next((need.arm for need in run.needs if f"{need.arm}/seed{need.seed(seed)}" in failed), None)
            if broken and not _diverged(run, seed, results):
                failed[label] = f"{broken} has failed"
                continue
            try:
                if not _do(run, seed, runs, results):
                    held.append((run, seed))
            except Failed as error:
                failed[label] = str(error)
                if isinstance(error, Diverged):
                    _keep(run, seed, results, _folder(runs, run, seed), failed=str(error))
                say(f"{label}: {error}")
        if len(held) == len(waiting):
            time.sleep(LOOK_EVERY_S)
        waiting = held
    return failed


def _do(run: Run, seed: int, runs: Path, results: Path) -> bool:
    """Do one, and before it what it needs and is not there; -> whether it is done. False: another process is at it."""
    folder = _folder(runs, run, seed)
    told = folder / "claim.json"
    if gone := _diverged(run, seed, results):
        raise Diverged(f"{gone} diverged")
    for need in run.needs:
        there = (_folder(runs, need, need.seed(seed)) / "claim.json").exists()
        if not there and not _do(need, need.seed(seed), runs, results):
            return False
    held = lock(folder.with_suffix(".lock"), wait=False)
    if held is None:
        return False
    with held:
        fresh = not told.exists()
        if fresh:
            say(f"{run.arm}, seed {seed}: about {run.seconds:.0f} s")
            made_by = _made_by()
            seconds = _commands(run, seed, folder, runs)
            write_json(told, {"seconds": seconds, "commands": commands(run, seed, runs)} | made_by)
            _drop_checkpoints(folder)
        if fresh and raw_path(results, run, seed).exists():
            say(f"{run.arm}, seed {seed}: made anew; what was made of the model before it is not of this one")
        if fresh or not raw_path(results, run, seed).exists():
            _keep(run, seed, results, folder)
    return True


def _diverged(run: Run, seed: int, results: Path) -> str:
    """The first of what it builds on that is known to have diverged."""
    raws = {need.arm: read_json(raw_path(results, need, need.seed(seed))) for need in run.needs}
    return next((arm for arm, raw in raws.items() if raw.get("failed")), "")


def commands(run: Run, seed: int, runs: Path) -> dict[str, list[str]]:
    """Part -> command line, without the interpreter: what a user would type."""
    folder = _folder(runs, run, seed)
    settings = [_with_folders(item, run, seed, runs) for item in run.settings]
    start = next((str(_folder(runs, need, need.seed(seed))) for need in run.needs if need.arm == run.start), run.start)
    if run.command == DECODE:
        return {"train": ["-m", "experiments.claims.decode", start, str(folder / "decode.json"), f"seed={seed}"]}
    given = [*settings, *([f"{FOLDERS[run.command]}={start}"] if start else [])]
    if run.command == "plan":
        return {"train": ["r1", "plan", *given, "plan.json=true"]}
    named = [f"run.seed={seed}"]
    if run.command == "evaluate":
        return {"evaluate": ["r1", "evaluate", *given, *named, f"run.dir={folder / 'evaluation'}"]}
    parts = {"train": ["r1", run.command, *given, *named, f"run.dir={folder}", "tracking.enabled=false"]}
    if run.evaluate is not None:
        asked = [f"evaluate.checkpoint={folder}", *named, f"run.dir={folder / 'evaluation'}"]
        parts["evaluate"] = ["r1", "evaluate", *run.evaluate, *asked]
    return parts


def _commands(run: Run, seed: int, folder: Path, runs: Path) -> dict[str, float]:
    """Do the parts; -> the seconds of each, earlier starts included."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = read_json(folder / "parts.json")
    for part, command in commands(run, seed, runs).items():
        if notes.get(part, {}).get("done"):
            continue
        start = time.monotonic()
        out = _call(command, folder / f"{part}.log")
        if run.command == "plan":
            write_json(folder / "plan.json", json.loads(out))
        took = notes.get(part, {}).get("seconds", 0.0) + time.monotonic() - start
        notes[part] = {"done": True, "seconds": round(took, 1)}
        write_json(folder / "parts.json", notes)
    return {part: note["seconds"] for part, note in notes.items()}


def _call(command: list[str], log: Path) -> str:
    """Its standard output; what it says goes to the log. Raises Failed with the log's last line."""
    real = [*RANK_COMMAND, *command[1:]] if command[0] == "r1" else [sys.executable, "-P", *command]
    with log.open("ab") as file:
        before = file.tell()
        done = subprocess.run(real, stdout=subprocess.PIPE, stderr=file, text=True, env=_alone())
    said = log.read_bytes()[before:].decode(errors="replace")
    if done.returncode != 0 or ": stopped by " in said:  # a command that is told to stop ends well, with more to do
        lines = [line for line in said.splitlines() if line.strip()]
        kind = Diverged if TrainingDiverged.SAID in said else Failed
        raise kind(f"r1 {command[1]} ended with {done.returncode}: {lines[-1] if lines else 'no word'} (see {log})")
    return done.stdout


def _alone() -> dict[str, str]:
    """The environment without a launcher's ranks: each command starts its own."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE", "SLURM_STEP_ID")
    return {key: value for key, value in os.environ.items() if key not in ours}


def _with_folders(item: str, run: Run, seed: int, runs: Path) -> str:
    for need in run.needs:
        item = item.replace(f"{{{need.arm}}}", str(_folder(runs, need, need.seed(seed))))
    return item


def _made_by() -> dict[str, Any]:
    """What a run is made with: the code, and the cores it may use."""
    state = git_state()
    return {"commit": state["commit"], "dirty": state["dirty"], "cores": len(os.sched_getaffinity(0))}


def _keep(run: Run, seed: int, results: Path, folder: Path, *, failed: str = "") -> None:
    """Write the raw result. failed: why there are no numbers."""
    path, told = raw_path(results, run, seed), read_json(folder / "claim.json")
    made_by = _made_by() | told | read_json(folder / "run.json")  # the training's own word before ours
    seconds = told.get("seconds", {})
    values = {} if failed else quantities.read(folder) | {f"{part}_s": took for part, took in seconds.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {
        "arm": run.arm,
        "seed": seed,
        **{key: made_by[key] for key in ("commit", "dirty", "cores")},
        "settings": list(run.settings),
        "start": run.start,
        "evaluate": None if run.evaluate is None else list(run.evaluate),
        "seconds": seconds,
        **({"failed": failed} if failed else {}),
        "values": dict(sorted(values.items())),
    }
    write_json(path, kept)


def _drop_checkpoints(folder: Path) -> None:
    """The model is there; what it could be resumed from is not needed any more."""
    if (folder / "model" / "config.json").exists():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / "start", ignore_errors=True)


def _folder(runs: Path, run: Run, seed: int) -> Path:
    return runs / run.arm / f"seed{seed}"


def raw_path(results: Path, run: Run, seed: int) -> Path:
    """Where the raw result of a run is kept."""
    return results / "raw" / run.arm / f"{seed}.json"
