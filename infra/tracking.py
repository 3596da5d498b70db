"""A run's record: metrics.jsonl is the truth, samples are Parquet, and MLflow gets both from a process of its own.

Training writes one line to a file for each step and knows nothing of MLflow: infra/mlflow_sender.py reads the file at
low priority and keeps its position, so that an unreachable server or a killed process costs no point.
"""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from infra.errors import R1Error
from infra.files import read_json, write_json
from infra.progress import say
from infra.samples import SampleWriter

PROJECT = Path(__file__).resolve().parents[1]
_RESULTS = ":(exclude)experiments/results"
"What runs leave there is no change of the code."
_LOOK_EVERY_S = 5.0
"Seconds between looks at the sender."
_ENV = {"OMP_NUM_THREADS": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@functools.cache
def git_state(folder: Path | None = None) -> dict[str, Any]:
    """{"commit", "dirty"} of the project, or of the repository at `folder`.

    Outside git it is what `r1 launch` says of the code that it packaged, else "unknown" and False.
    """
    folder = (folder or PROJECT).resolve()

    def git(*args: str) -> str:
        env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder:  # a released tree inside another repository
            return _packaged()
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", ".", _RESULTS))}
    except (OSError, subprocess.SubprocessError):
        return _packaged()


def _packaged() -> dict[str, Any]:
    return {"commit": os.environ.get("R1_COMMIT", "unknown"), "dirty": os.environ.get("R1_DIRTY") == "1"}


def _job() -> dict[str, str]:
    """Tags that lead from a run to its SLURM job and the folder of its logs."""
    tags = {"slurm_job_id": os.environ.get("SLURM_JOB_ID"), "logs": os.environ.get("R1_LOGS")}
    return {key: value for key, value in tags.items() if value}


class Tracker:
    """Writes a run's record; only rank 0's does anything. Made again for the same run_dir, it goes on with the run.

    config: the resolved configuration; uri: MLflow's tracking URI (None: no MLflow); tags: stage, scale and the like.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        experiment: str,
        name: str,
        config: dict[str, Any],
        uri: str | None,
        seed: int,
        tags: dict[str, str],
        enabled: bool = True,
    ) -> None:
        self.run_dir = run_dir.resolve()
        self._enabled = enabled and os.environ.get("RANK", "0") == "0"
        self._warned: set[str] = set()
        self._sender: subprocess.Popen[bytes] | None = None
        self._uri = absolute_uri(uri) if uri else None
        self._run: dict[str, Any] = {}
        if not self._enabled:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        before = read_json(self.run_dir / "run.json")
        self._run = {
            "run_id": before.get("run_id") or os.environ.get("R1_RUN_ID") or uuid.uuid4().hex,
            "name": name,
            "experiment": experiment,
            "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            **git_state(),
            "seed": seed,
            "tags": tags | _job(),
            "uri": self._uri,
            "status": "RUNNING",
            "config": json.loads(json.dumps(config, default=_plain)),
        }
        write_json(self.run_dir / "run.json", self._run)
        self._file = _open_lines(self.run_dir / "metrics.jsonl")
        self._unwritten = b""
        self._restarts_left = 5
        self._samples = SampleWriter(self.run_dir / "samples", self._warn)
        self._problem = self.run_dir / "mlflow_problem.txt"
        self._problem.unlink(missing_ok=True)
        self._start_sender()

    @property
    def run_id(self) -> str:
        """The run's id, kept over resumes; MLflow's own id for it is in mlflow.json. Empty on other ranks."""
        return self._run.get("run_id", "")

    def log(self, metrics: dict[str, float], *, step: int, tokens: int) -> None:
        """Metrics at `step`, when `tokens` had been trained on. What is not finite is written as null."""
        if not self._enabled:
            return
        values = {key: _finite(value) for key, value in metrics.items()}
        record = {"step": step, "tokens": tokens, "time": round(time.time(), 3), "metrics": values}
        self._unwritten += json.dumps(record).encode() + b"\n"
        self._write()
        if time.monotonic() >= self._next_look:
            self._look_at_sender()

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Rows for samples/step_{step:06d}.parquet; written in the background."""
        if self._enabled:
            self._samples.put(step, rows)

    def artifact(self, path: Path) -> None:
        """A file or folder for MLflow to keep a copy of."""
        if not self._enabled:
            return
        path = path.resolve()
        inside = path.is_relative_to(self.run_dir)
        line = json.dumps({"path": str(path.relative_to(self.run_dir) if inside else path), "time": time.time()})
        try:
            file = _open_lines(self.run_dir / "artifacts.jsonl")
            os.write(file, line.encode() + b"\n")
            os.close(file)
        except OSError as error:
            self._warn("artifacts", f"{path} not kept as an artifact ({error})")

    def finish(self, status: str = "FINISHED", wait_s: float | None = None) -> None:
        """End the run as FINISHED, KILLED or FAILED; waits for samples, and at most wait_s for MLflow.

        wait_s: 30 s, or 5 s for a run that was told to stop. MLflow gets the rest in the background.
        """
        if not self._enabled:
            return
        self._enabled = False
        self._samples.close()
        self._write()
        os.close(self._file)
        if self._unwritten:
            lost = self._unwritten.count(b"\n")
            self._warn("lost", f"{self.run_dir}/metrics.jsonl: the last {lost} lines could not be written and are lost")
        try:
            write_json(self.run_dir / "run.json", self._run | {"status": status})
        except OSError as error:
            self._warn("status", f"{self.run_dir}/run.json: status {status} not written ({error})")
        if self._sender is None:
            return
        if self._sender.poll() is not None:
            self._start_sender()
        try:
            code = self._sender.wait(wait_s if wait_s is not None else 5.0 if status == "KILLED" else 30.0)
        except subprocess.TimeoutExpired:
            self._sender.returncode = 0  # it goes on by itself; keeps Popen from complaining about that
            if not self._problem.exists():
                self._warn("slow", f"{shown(self._uri)}: the rest of the metrics is being sent in the background")
            code = 0
        self._warn_of_problem(code)

    def _write(self) -> None:
        """Append what is not written yet. What a full disk refuses is tried again with the next line."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
        except OSError as error:
            line = f"{self.run_dir}/metrics.jsonl: {error.strerror}; training goes on, and metrics wait in memory"
            self._warn("metrics", line)

    def _start_sender(self) -> None:
        self._next_look = math.inf
        if self._uri is not None:
            self._sender = _spawn(self.run_dir, self._uri, parent=os.getpid())
            self._next_look = time.monotonic() + _LOOK_EVERY_S

    def _look_at_sender(self) -> None:
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        code = self._sender.poll() if self._sender else None
        if code is not None and code < 0 and self._restarts_left:  # killed: what it had sent is known, another goes on
            self._restarts_left -= 1
            self._start_sender()
        elif code is not None:
            self._next_look = math.inf
        self._warn_of_problem(code or 0)

    def _warn_of_problem(self, code: int) -> None:
        """One line when the sender cannot reach MLflow, or ended with an exit status that is not 0."""
        if self._problem.exists():
            problem = self._problem.read_text().strip()
        elif code != 0:
            problem = f"its sender ended with status {code} (see {self.run_dir}/mlflow_sender.log)"
        else:
            return
        kept = f"training is not affected, and metrics are kept in {self.run_dir}/metrics.jsonl"
        remedy = f"to send them later: r1 sync run.dir={self.run_dir}"
        self._warn("MLflow", f"MLflow at {shown(self._uri)} {problem}; {kept}; {remedy}")

    def _warn(self, kind: str, line: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            say(f"warning: {line}")


def sync(run_dir: Path, uri: str | None = None) -> str:
    """Send to MLflow what it has not got of a run (`r1 sync`); -> a line for the user.

    uri: the tracking URI, by default the run's own. R1Error without a run, or when MLflow cannot be reached.
    """
    run_dir = run_dir.resolve()
    run = read_json(run_dir / "run.json")
    if not run:
        raise R1Error(f"run.dir={run_dir}: no run.json, so no run was started here; give the folder of a run")
    uri = absolute_uri(uri) if uri else run["uri"]
    if uri is None:
        raise R1Error(
            "tracking.uri=null: the run was made without MLflow; set tracking.uri, say sqlite:///runs/mlflow.db"
        )
    code = _spawn(run_dir, uri, parent=0).wait()
    if code == 0:
        sent = read_json(run_dir / "mlflow.json")
        return f"{run_dir}: {sent['line']} lines of metrics are in MLflow at {shown(uri)}, run {sent['run_id']}"
    if code == SENDER_BUSY:
        pid = (run_dir / "mlflow.lock").read_text()
        return f"{run_dir}: process {pid} is sending this run's metrics already"
    problem = run_dir / "mlflow_problem.txt"
    why = problem.read_text().strip() if problem.exists() else f"see {run_dir}/mlflow_sender.log"
    raise R1Error(f"tracking.uri={shown(uri)}: {why}; nothing is lost, try again when MLflow can be reached")


SENDER_BUSY = 4
"Exit status of a sender that found another one at work in the run folder."


def absolute_uri(uri: str) -> str:
    """sqlite:///runs/mlflow.db -> the same file whatever the working folder; other URIs as they are."""
    found = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{Path(found[1]).resolve()}" if found else uri


def _spawn(run_dir: Path, uri: str, *, parent: int) -> subprocess.Popen[bytes]:
    """A sender in a session of its own, so that Ctrl-C at the terminal does not reach it. parent 0: send and end."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    with (run_dir / "mlflow_sender.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.mlflow_sender", str(run_dir), uri, str(parent)],
            env=os.environ | _ENV | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _open_lines(path: Path) -> int:
    """A descriptor to append lines to; a last line that a crash cut short is ended first."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")
    return file


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _plain(value: object) -> object:
    """What JSON lacks, as the command line would write it."""
    if isinstance(value, Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def shown(text: str | None) -> str:
    """A URI, or a message with one, without user and password."""
    return re.sub(r"//[^/\s]*@", "//", text or "")
