"""What the pages read: the list of runs, their metrics, their samples. Read-only, cached, inside the run store only.

A run's folder holds the durable truth (metrics.jsonl, samples/*.parquet, run.json) and is read first; MLflow adds the
runs, states and names that have no folder here. A run's key is its folder relative to the store ("reproduce/zero"), or
its MLflow name and id; pages look keys up among the known runs and never open a path that came from a URL.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from dashboard import mlflow_read
from dashboard.metrics_file import MetricsFile

QUIET_S = 300.0
"A run said to be running that has written nothing for so long is shown as silent: killed, or its machine is away."
NOT_RUNS = {"checkpoints", "samples", "evaluations", "model", "figures", "mlflow_artifacts"}
SAMPLE_COLUMNS = ("question_id", "task", "prompt", "answer_key", "group", "text", "reward", "advantage")
SAMPLE_COLUMNS += ("response_tokens", "thinking_tokens", "stopped", "reflects", "version")
NUMBERS = {"group", "reward", "advantage", "response_tokens", "thinking_tokens", "version"}
FLAGS = {"stopped", "reflects"}
KINDS = {"training": "samples", "held-out": "evaluations"}
"Whose answers -> their folder in the run's folder."


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

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.status == "running"


@dataclass(frozen=True, slots=True)
class Listing:
    """The known runs by key, newest first, and what could not be read."""

    runs: dict[str, Run]
    problems: tuple[str, ...] = ()


class Unreadable(Exception):
    """A file of a run cannot be shown; the message is one line for the page."""


def root() -> Path:
    """The run store: R1_RUNS, or ./runs."""
    return Path(os.environ.get("R1_RUNS", "runs"))


def mlflow_uri() -> str:
    """R1_MLFLOW_URI, or the SQLite file that runs log to by default."""
    return os.environ.get("R1_MLFLOW_URI", "sqlite:///runs/mlflow.db")


def known() -> Listing:
    """The runs of this store and of MLflow, at most two seconds old."""
    return _listing(str(root()), mlflow_uri())


@st.cache_data(ttl=2.0, show_spinner=False)
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


def run_folders(store: Path, depth: int = 5) -> Iterator[Path]:
    """Folders in the store that a run has written to; links are not followed, so nothing outside is found."""
    try:
        entries = sorted(os.scandir(store), key=lambda e: e.name)
    except OSError:  # gone, or not ours to read
        return
    if any(e.name in ("metrics.jsonl", "run.json") and e.is_file(follow_symlinks=False) for e in entries):
        yield store
    for entry in entries:
        if depth and entry.name not in NOT_RUNS and entry.is_dir(follow_symlinks=False):
            yield from run_folders(store / entry.name, depth - 1)


def _from_folder(folder: Path, store: Path) -> tuple[Run, str | None]:
    problem, record = None, {}
    try:
        record = json.loads(_inside(folder / "run.json", store).read_bytes())
        if not isinstance(record, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        pass  # a run of which only the metrics were kept is still shown
    except (OSError, ValueError, RecursionError):
        problem, record = (f"{folder / 'run.json'} can't be read (half-written?); the run is shown without it.", {})
    tags = record.get("tags") if isinstance(record.get("tags"), dict) else {}
    facts = {**tags, **record}
    key = folder.relative_to(store).as_posix()
    updated = max(filter(None, (_modified(folder / name) for name in ("metrics.jsonl", "run.json"))), default=None)
    run = Run(
        key="(the store itself)" if key == "." else key,
        **{field: _text(facts.get(field)) for field in ("name", "stage", "scale", "seed", "commit")},
        status=_status(_text(facts.get("status")), updated),
        started=_seconds(facts.get("created")),
        updated=updated,
        folder=folder,
        run_id=_text(facts.get("run_id")),
    )
    return run, problem


def _completed(run: Run, record: mlflow_read.MlflowRun) -> Run:
    """A folder's run with what only MLflow knows; where both speak, the folder is right (MLflow may lag behind)."""
    other = _from_mlflow(record)
    fields = ("name", "stage", "scale", "seed", "commit", "started", "mlflow_id")
    missing = {field: getattr(other, field) for field in fields if getattr(run, field) is None}
    # A killed trainer cannot say so in run.json: the process that sends its metrics does, in MLflow.
    noticed = run.status in ("running", "silent") and record.ended and record.ended >= (run.updated or 0.0) - 0.01
    return replace(run, **missing, status=other.status if noticed else run.status)


def _from_mlflow(record: mlflow_read.MlflowRun) -> Run:
    return Run(
        key=f"{record.name or 'run'} {record.id[:8]}",
        name=record.name,
        **{field: record.tags.get(field) for field in ("stage", "scale", "seed")},
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
    """All that a run logged: columns step, tokens, time and one for each metric; one row a step, NaN where missing."""

    frame: pd.DataFrame
    problem: str | None = None


def metrics(run: Run) -> Metrics:
    """The run's metrics. The frame is shared between sessions: read it, do not change it."""
    if run.folder is not None:
        try:
            frame, unreadable = _metrics_file(str(_inside(run.folder / "metrics.jsonl", root()))).read()
        except OSError as error:
            return Metrics(MetricsFile.empty(), f"{run.key}: metrics.jsonl can't be read: {error.strerror or error}")
        lines = "1 line" if unreadable == 1 else f"{unreadable} lines"
        return Metrics(frame, f"{run.key}: {lines} of metrics.jsonl can't be read, left out." if unreadable else None)
    try:
        return Metrics(_mlflow_metrics(mlflow_uri(), run.mlflow_id or ""))
    except mlflow_read.MlflowUnreadable as error:
        return Metrics(MetricsFile.empty(), str(error))


@st.cache_resource(show_spinner=False, max_entries=200)
def _metrics_file(path: str) -> MetricsFile:
    return MetricsFile(Path(path))


@st.cache_data(ttl=3.0, show_spinner=False, max_entries=100)
def _mlflow_metrics(uri: str, run_id: str) -> pd.DataFrame:
    records: dict[int, dict[str, float]] = {}
    for key, step, seconds, value in mlflow_read.read_metrics(uri, run_id):
        record = records.setdefault(step, {"step": step})
        record |= {key: value, "time": seconds}
        if key == "train/tokens":
            record["tokens"] = value
    return MetricsFile.frame_of(records)


def sample_files(run: Run, kind: str) -> dict[int, Path]:
    """step -> Parquet file of a run's answers; kind: training or held-out. Links are left out."""
    if run.folder is None:
        return {}
    files = {}
    for path in (run.folder / KINDS[kind]).glob("step_*.parquet"):
        number = re.fullmatch(r"step_(\d{1,12})", path.stem)
        if number and path.resolve().is_relative_to(root().resolve()):
            files[int(number[1])] = path
    return dict(sorted(files.items()))


def samples(path: Path) -> pd.DataFrame:
    """Answers of one step: SAMPLE_COLUMNS and the reward's parts (reward_*); None or NaN where a column is missing.

    Unreadable when the file is half-written or no Parquet.
    """
    try:
        stat = path.stat()
        return _samples(str(path), stat.st_mtime_ns, stat.st_size)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise Unreadable(f"{path.name} can't be read: half-written, damaged, or not Parquet.") from error


@st.cache_data(show_spinner=False, max_entries=50)
def _samples(path: str, modified_ns: int, size: int) -> pd.DataFrame:
    """Reads by column: token lists are several times as large as the texts and stay on disk."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        parts = [name for name in names if name.startswith("reward_")]
        wanted = [*SAMPLE_COLUMNS, *parts]
        table = file.read(columns=[name for name in wanted if name in names])
    columns = {}
    for name in wanted:
        if name not in table.column_names:
            columns[name] = pd.Series([None] * len(table), dtype=object)
        elif name in NUMBERS or name in parts:
            columns[name] = pd.to_numeric(pd.Series(table[name].to_pylist(), dtype=object), errors="coerce")
        elif name in FLAGS:
            columns[name] = pd.Series(table[name].to_pylist(), dtype=object)
        else:
            columns[name] = pd.Series(_texts(table[name]), dtype=object)
    return pd.DataFrame(columns)


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Strings; bytes that are no UTF-8 become U+FFFD instead of an error."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values = column.to_pylist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else None if v is None else str(v) for v in values]


def _inside(path: Path, store: Path) -> Path:
    """The path itself; PermissionError when it is a link that leads out of the store."""
    if not path.resolve().is_relative_to(store.resolve()):
        raise PermissionError(errno.EACCES, "a link out of the run store", str(path))
    return path


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
