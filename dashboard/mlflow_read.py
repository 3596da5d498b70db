"""Runs and metrics out of MLflow: one read-only SQL query on SQLite, MLflow's client for every other tracking URI."""

import json
import os
import re
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

CLIENT_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"Its own are minutes; a page that waits for a server that is away has to say so at once."

# One row a run: tags as one JSON object, so that the list of a thousand runs is one query and not three thousand.
_RUNS = """
SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time,
       (SELECT json_group_object(t.key, t.value) FROM tags t WHERE t.run_uuid = r.run_uuid)
FROM runs r WHERE r.lifecycle_stage = 'active'
"""
_METRICS = "SELECT key, step, timestamp, value FROM metrics WHERE run_uuid = ? AND NOT is_nan ORDER BY step, timestamp"


class MlflowUnreadable(Exception):
    """MLflow's records cannot be read now; the message says which and why."""


@dataclass(frozen=True, slots=True)
class MlflowRun:
    """A run as MLflow knows it."""

    id: str
    name: str | None
    status: str | None
    "RUNNING, FINISHED, FAILED, KILLED or SCHEDULED."
    started: float | None
    "Seconds since 1970, as is ended."
    ended: float | None
    tags: dict[str, str] = field(default_factory=dict)


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite tracking URI (three slashes: relative, four: absolute); None for other URIs."""
    prefix = "sqlite:///"
    return Path(uri[len(prefix) :].partition("?")[0]) if uri.startswith(prefix) else None


def shown_uri(text: str) -> str:
    """A URI, or a message with one, without user and password."""
    return re.sub(r"//[^/\s]*@", "//", text)


def list_runs(uri: str) -> list[MlflowRun]:
    """All runs that are not deleted; none where the SQLite file does not exist yet."""
    path = sqlite_path(uri)
    if path is None:
        return _runs_by_client(uri)
    if not path.exists():
        return []
    return [
        MlflowRun(id_, name, status, _seconds(start), _seconds(end), json.loads(tags or "{}"))
        for id_, name, status, start, end, tags in _query(path, _RUNS)
    ]


def read_metrics(uri: str, run_id: str) -> list[tuple[str, int, float, float]]:
    """(metric, step, time in seconds, value) of a run, by step; values that are no number are left out."""
    path = sqlite_path(uri)
    if path is None:
        return _metrics_by_client(uri, run_id)
    return [(key, step, stamp / 1000, value) for key, step, stamp, value in _query(path, _METRICS, (run_id,))]


def _query(path: Path, sql: str, values: tuple = ()) -> list[tuple]:
    try:
        # mode=ro: the page cannot change a run, nor make an empty file where there is none.
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2.0)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise MlflowUnreadable(f"{path} can't be read as MLflow's database: {error}") from error


def _client(uri: str):
    for key, value in CLIENT_LIMITS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient  # seconds to import, and not needed for SQLite

    return MlflowClient(uri)


def _runs_by_client(uri: str) -> list[MlflowRun]:
    from mlflow.exceptions import MlflowException

    try:
        client = _client(uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        found = client.search_runs(experiments, max_results=5000) if experiments else []
    except (MlflowException, OSError, ImportError) as error:
        raise MlflowUnreadable(f"MLflow at {shown_uri(uri)} can't be read: {_first_line(error)}") from error
    return [
        MlflowRun(
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            _seconds(run.info.start_time),
            _seconds(run.info.end_time),
            dict(run.data.tags),
        )
        for run in found
    ]


def _metrics_by_client(uri: str, run_id: str) -> list[tuple[str, int, float, float]]:
    from mlflow.exceptions import MlflowException

    try:
        client = _client(uri)
        keys = client.get_run(run_id).data.metrics
        points = [
            (m.key, m.step, m.timestamp / 1000, m.value) for k in keys for m in client.get_metric_history(run_id, k)
        ]
    except (MlflowException, OSError, ImportError) as error:
        raise MlflowUnreadable(f"MLflow at {shown_uri(uri)} can't be read: {_first_line(error)}") from error
    return sorted((p for p in points if p[3] == p[3]), key=lambda p: (p[1], p[2]))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _first_line(error: Exception) -> str:
    return shown_uri((str(error).splitlines() or [type(error).__name__])[0])[:200]
