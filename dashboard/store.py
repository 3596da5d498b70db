"""What the pages read: the list of runs, their metrics, their samples. Read-only, cached, inside the run store only.

A run's folder holds the durable truth (metrics.jsonl, samples/*.parquet, run.json) and is read first; MLflow adds the
runs, states and names that have no folder here. A run's key is its folder relative to the store ("reproduce/zero"), or
its MLflow name and id; pages look keys up among the known runs and never open a path that came from a URL.
"""

import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import metrics_file, mlflow_read, tail
from dashboard import sample_files as kept
from dashboard.config_diff import group_of
from dashboard.metrics_file import inside
from dashboard.tail import Tail

KINDS, Unreadable = kept.KINDS, kept.Unreadable
QUIET_S = 300.0
"A run said to be running that has written nothing for so long is shown as silent: killed, or its machine is away."
NOT_RUNS = {"checkpoints", "samples", "evaluations", "model", "figures", "mlflow_artifacts", "bench"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the pages show it; None is what nobody wrote down."""

    key: str
    name: str | None = None
    stage: str | None = None
    scale: str | None = None
    seed: str | None = None
    commit: str | None = None
    status: str | None = None
    "running, silent, finished, failed, killed."
    started: float | None = None
    "Seconds since 1970, as is updated: the last sign of life."
    updated: float | None = None
    folder: Path | None = None
    run_id: str | None = None
    "Of run.json; MLflow has it as the tag run_id."
    mlflow_id: str | None = None
    task: str | None = None
    config: dict = field(default_factory=dict, hash=False, compare=False)
    "The resolved configuration, nested; empty where only MLflow knows the run."
    group: str | None = None
    "Equal for runs of one configuration and one commit that differ in seeds only; None where the config is unknown."

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.status == "running"


@dataclass(frozen=True, slots=True)
class Listing:
    """The known runs by key, newest first, and what could not be read."""

    runs: dict[str, Run]
    problems: tuple[str, ...] = ()


def root() -> Path:
    """The run store: R1_RUNS, or ./runs."""
    return Path(os.environ.get("R1_RUNS", "runs"))


def mlflow_uri() -> str:
    """R1_MLFLOW_URI, or the SQLite file that runs log to by default."""
    return os.environ.get("R1_MLFLOW_URI", "sqlite:///runs/mlflow.db")


def known() -> Listing:
    """The runs of this store and of MLflow, at most a second old."""
    return _listing(str(root()), mlflow_uri())


# A resource, not data: a copy of a hundred configurations for every look would cost more than the look.
@st.cache_resource(ttl=1.0, show_spinner=False, max_entries=4)
def _listing(store: str, uri: str) -> Listing:
    problems = []
    folders = {}
    for folder in run_folders(Path(store)):
        run, problem = _from_folder(folder, Path(store))
        folders[run.key] = run
        problems += [problem] if problem else []
    try:
        logged = mlflow_read.list_runs(uri)
    except mlflow_read.MlflowUnreadable as error:
        logged = []
        problems.append(f"{error}. Runs are shown from their folders.")

    key_of = {run.run_id: run.key for run in folders.values() if run.run_id}
    runs = dict(folders)
    for record in logged:
        key = key_of.get(record.tags.get("run_id"))
        run = _completed(runs[key], record) if key else _from_mlflow(record)
        runs[run.key] = run
    newest_first = sorted(runs.values(), key=lambda r: r.started or r.updated or 0.0, reverse=True)
    return Listing({run.key: run for run in newest_first}, tuple(problems))


def run_folders(store: Path) -> Iterator[Path]:
    """Folders in the store that a run has written to."""
    return folders_with(store, {"metrics.jsonl", "run.json"})


def folders_with(store: Path, names: set[str], depth: int = 5) -> Iterator[Path]:
    """Folders in the store that hold a file of such a name; links are not followed, so nothing outside is found."""
    try:
        entries = sorted(os.scandir(store), key=lambda e: e.name)
    except OSError:  # gone, or not ours to read
        return
    if any(e.name in names and e.is_file(follow_symlinks=False) for e in entries):
        yield store
    for entry in entries:
        if depth and entry.name not in NOT_RUNS and entry.is_dir(follow_symlinks=False):
            yield from folders_with(store / entry.name, names, depth - 1)


def _from_folder(folder: Path, store: Path) -> tuple[Run, str | None]:
    problem, record, group = None, {}, None
    key = folder.relative_to(store).as_posix()
    try:
        path = inside(folder / "run.json", store)
        stat = path.stat()
        record, group = _record(str(path), stat.st_mtime_ns, stat.st_size, key)
    except FileNotFoundError:
        pass  # a run of which only the metrics were kept is still shown
    except (OSError, ValueError, RecursionError):
        problem = f"{folder / 'run.json'} can't be read (half-written?); the run is shown without it."
    tags = record.get("tags") if isinstance(record.get("tags"), dict) else {}
    config = record.get("config") if isinstance(record.get("config"), dict) else {}
    facts = {**tags, **record}
    updated = max(filter(None, (_modified(folder / name) for name in ("metrics.jsonl", "run.json"))), default=None)
    run = Run(
        key="(the store itself)" if key == "." else key,
        **{field: _text(facts.get(field)) for field in ("name", "stage", "scale", "task", "seed", "commit")},
        status=_status(_text(facts.get("status")), updated),
        started=_seconds(facts.get("created")),
        updated=updated,
        folder=folder,
        run_id=_text(facts.get("run_id")),
        config=config,
        group=group,
    )
    return run, problem


@functools.lru_cache(maxsize=5000)
def _record(path: str, modified_ns: int, size: int, key: str) -> tuple[dict, str | None]:
    """(run.json, the run's group)."""
    record = json.loads(Path(path).read_bytes())
    if not isinstance(record, dict):
        raise ValueError("no object")
    config = record.get("config")
    known = isinstance(config, dict) and config
    return record, group_of(key, config, _text(record.get("commit"))) if known else None


def _completed(run: Run, record: mlflow_read.MlflowRun) -> Run:
    """A folder's run with what only MLflow knows; where both speak, the folder is right (MLflow may lag behind)."""
    other = _from_mlflow(record)
    fields = ("name", "stage", "scale", "task", "seed", "commit", "started", "mlflow_id")
    missing = {field: getattr(other, field) for field in fields if getattr(run, field) is None}
    # A killed trainer cannot say so in run.json: the process that sends its metrics does, in MLflow.
    noticed = run.status in ("running", "silent") and record.ended and record.ended >= (run.updated or 0.0) - 0.01
    return replace(run, **missing, status=other.status if noticed else run.status)


def _from_mlflow(record: mlflow_read.MlflowRun) -> Run:
    return Run(
        key=f"{record.name or 'run'} {record.id[:8]}",
        name=record.name,
        **{field: record.tags.get(field) for field in ("stage", "scale", "task", "seed")},
        commit=record.tags.get("commit") or record.tags.get("mlflow.source.git.commit"),
        status=record.status.lower() if record.status else None,
        started=record.started,
        updated=record.ended or record.started,
        mlflow_id=record.id,
    )


def _status(said: str | None, updated: float | None) -> str | None:
    """What run.json says; a run that says it runs, or says nothing, is believed as long as it writes."""
    fresh = updated is not None and time.time() - updated < QUIET_S
    if said is None:
        return "running" if fresh else None
    return "silent" if said.lower() == "running" and not fresh else said.lower()


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run logged of the metrics that were asked for."""

    frame: pd.DataFrame
    "Columns step, tokens, time and one for each metric; one row a step, NaN where missing. Shared: do not change it."
    names: tuple[str, ...] = ()
    "All the metrics that it logged."
    problem: str | None = None


def metrics(run: Run, names: Iterable[str] | None = None) -> Metrics:
    """The run's metrics as they are now: those asked for, or all."""
    columns, problem = _columns(run)
    return Metrics(columns.frame(names), tuple(columns.names), problem)


def metrics_of(runs: Sequence[Run], names: Iterable[str] | None = None) -> dict[str, Metrics]:
    """key -> metrics; files that have grown are read side by side."""
    wanted = None if names is None else list(names)
    with ThreadPoolExecutor(2) as pool:  # Arrow parses without Python's lock
        found = list(pool.map(_columns, runs))
    pairs = zip(runs, found, strict=True)
    return {run.key: Metrics(columns.frame(wanted), tuple(columns.names), why) for run, (columns, why) in pairs}


def _columns(run: Run) -> tuple[metrics_file.Columns, str | None]:
    if run.folder is None:
        try:
            return _mlflow_columns(mlflow_uri(), run.mlflow_id or ""), None
        except mlflow_read.MlflowUnreadable as error:
            return metrics_file.EMPTY, str(error)
    try:
        columns = _metrics_files().read(inside(run.folder / "metrics.jsonl", root()))
    except OSError as error:
        return metrics_file.EMPTY, f"{run.key}: metrics.jsonl can't be read: {error.strerror or error}"
    lines = "1 line" if columns.unreadable == 1 else f"{columns.unreadable} lines"
    return columns, f"{run.key}: {lines} of metrics.jsonl can't be read, left out." if columns.unreadable else None


def tail_of(run: Run) -> Tail:
    """How far the run came, without reading all of it. A run that only MLflow knows has its last step."""
    if run.folder is not None:
        try:
            return tail.of(inside(run.folder / "metrics.jsonl", root()))
        except OSError:
            return Tail()
    columns, _ = _columns(run)
    return Tail(step=int(columns.values["step"][-1]) if len(columns.values["step"]) else None)


def read_ahead(runs: Iterable[Run]) -> None:
    """Read in the background what a reader is likely to look at next; what goes wrong is said when he does."""
    _metrics_files().read_ahead([run.folder / "metrics.jsonl" for run in runs if run.folder], root())


@st.cache_resource(show_spinner=False)
def _metrics_files() -> metrics_file.MetricsCache:
    return metrics_file.MetricsCache()


@st.cache_resource(ttl=3.0, show_spinner=False, max_entries=50)
def _mlflow_columns(uri: str, run_id: str) -> metrics_file.Columns:
    return metrics_file.from_records(mlflow_read.read_metrics(uri, run_id))


def sample_files(run: Run, kind: str) -> dict[int, Path]:
    """step -> Parquet file of a run's answers; kind: training or held-out."""
    return kept.files(run.folder, kind)


def samples(path: Path, columns: Sequence[str] | None = None, *, question: str | None = None) -> pd.DataFrame:
    """Answers of one step, see dashboard/sample_files.py."""
    return kept.read(path, columns, question=question)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None


def _seconds(moment: object) -> float | None:
    """ISO time -> seconds since 1970."""
    try:
        return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
    except ValueError:
        return None
