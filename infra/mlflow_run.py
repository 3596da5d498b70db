"""A run in MLflow: found or made, and written to. Only the sender's process imports this, as MLflow takes seconds."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from infra.files import lock
from infra.hardware import system_info

PROBLEMS = (MlflowException, SQLAlchemyError, OSError)
"What MLflow raises when it cannot be reached (requests' errors are OSErrors)."
_MAX_PARAM, _MAX_TAG, _MAX_PARAMS = 6000, 8000, 100


class MlflowRun:
    """The MLflow run of a run folder, known by its tag run_id; made when the store has none. PROBLEMS if unreachable.

    run: content of run.json; running: whether the run's process lives.
    """

    def __init__(self, uri: str, run: dict[str, Any], run_dir: Path, *, running: bool) -> None:
        with _one_at_a_time(uri):
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._experiment(run["experiment"], uri)
            filter_string = f"tags.run_id = '{run['run_id']}'"
            found = self._client.search_runs([experiment.experiment_id], filter_string, max_results=1)
            if found:
                self.run_id, params = found[0].info.run_id, found[0].data.params
            else:
                start = round(datetime.fromisoformat(run["created"]).timestamp() * 1000)
                tags = {"run_id": run["run_id"]}
                made = self._client.create_run(experiment.experiment_id, start, tags, run_name=run["name"])
                self.run_id, params = made.info.run_id, {}
        self._run_dir = run_dir
        self._describe(run, params)
        if running:
            self._client.update_run(self.run_id, status="RUNNING")

    def log(self, metrics: list[Metric]) -> None:
        """At most 1000 points in one request."""
        self._client.log_batch(self.run_id, metrics=metrics)

    def artifact(self, path: Path) -> None:
        """Copy a file or folder, under the name it has in the run folder."""
        inside = path.parent.relative_to(self._run_dir) if path.is_relative_to(self._run_dir) else Path()
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), str(inside / path.name))
        else:
            self._client.log_artifact(self.run_id, str(path), None if inside == Path() else str(inside))

    def end(self, status: str, at: float) -> None:
        """FINISHED, KILLED or FAILED, at a time in seconds."""
        self._client.set_terminated(self.run_id, status, round(at * 1000))

    def _experiment(self, name: str, uri: str) -> Experiment:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            database = _database(uri)  # without a place of its own, artefacts would go to the working folder
            place = (database.parent / "mlflow_artifacts").as_uri() if database else None
            try:
                self._client.create_experiment(name, artifact_location=place)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise  # else another run made it in between
            found = self._client.get_experiment_by_name(name)
        return found

    def _describe(self, run: dict[str, Any], known: dict[str, str]) -> None:
        """Config as params (what changed on a resume as tags, since params are for good), origin as tags."""
        config = {_name(key): value[:_MAX_PARAM] for key, value in flatten(run["config"]).items()}
        fresh = [Param(key, value) for key, value in config.items() if key not in known]
        for first in range(0, len(fresh), _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=fresh[first : first + _MAX_PARAMS])
        tags = {f"resumed/{key}": value for key, value in config.items() if known.get(key, value) != value}
        tags |= {f"system/{key}": value for key, value in system_info().items()}
        tags |= {key: run[key] for key in ("commit", "dirty", "seed")}
        tags |= {"mlflow.source.git.commit": run["commit"], "run_dir": self._run_dir}
        tags |= {name: self._run_dir / name for name in ("checkpoints", "samples", "model")}
        tags |= run["tags"]
        tags = {_name(key): str(value)[:_MAX_TAG] for key, value in tags.items()}
        entries = [RunTag(key, value) for key, value in tags.items()]
        for first in range(0, len(entries), _MAX_PARAMS):
            self._client.log_batch(self.run_id, tags=entries[first : first + _MAX_PARAMS])


def points(line: bytes) -> list[Metric]:
    """A line of metrics.jsonl as MLflow's points, train/tokens among them; null is a gap. None of a broken line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # cut short by a crash
        return []
    values = record["metrics"] | {"train/tokens": record["tokens"]}
    time_ms, step = round(record["time"] * 1000), record["step"]
    return [Metric(_name(key), value, time_ms, step) for key, value in values.items() if value is not None]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}, "c": [1]} -> {"a.b": "1", "c": "[1]"}."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | dict) else str(value)
    return flat


def _name(key: str) -> str:
    """Characters that MLflow takes, 250 of them at most."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """SQLite: one process at a time makes the tables, which takes seconds, and experiments and runs."""
    database = _database(uri)
    if database is None:
        yield
        return
    with lock(database.with_name(database.name + ".lock"), wait=True):
        yield
