"""The sender against a real MLflow on SQLite: nothing is lost or doubled, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import tracking
from infra.errors import R1Error
from infra.files import lock
from infra.tracking import Tracker, sync

CONFIG = {"model": {"hidden": 64, "layers": [1, 2]}, "path": Path("/data"), "text": "x" * 7000}

TRAIN = """
import sys, time
from pathlib import Path
from infra.tracking import Tracker
t = Tracker(Path(sys.argv[1]), experiment="test", name="orphan", config={}, uri=sys.argv[2], seed=0, tags={})
for step in range(30):
    t.log({"train/loss": 1.0}, step=step, tokens=step)
print("logged", flush=True)
time.sleep(60)
"""


def tracker(run_dir, uri, **changed):
    options = {"experiment": "test", "name": run_dir.name, "config": CONFIG, "seed": 3, "tags": {"stage": "zero"}}
    return Tracker(run_dir, uri=uri, **options | changed)


def log(t, first, last):
    for step in range(first, last):
        t.log({"train/loss": 1 / (1 + step), "train/lr": 0.1}, step=step, tokens=100 * step)


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def position(run_dir):
    path = run_dir / "mlflow.json"
    return json.loads(path.read_text()) if path.exists() else {"line": 0, "status": None}


class Store:
    """The database of the test run, read through MLflow's client."""

    def __init__(self, folder):
        from mlflow.tracking import MlflowClient

        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.folder = folder
        self._client = MlflowClient

    def run(self, run_dir):
        return self._client(self.uri).get_run(position(run_dir)["run_id"])

    def steps(self, run_dir, metric="train/loss"):
        history = self._client(self.uri).get_metric_history(position(run_dir)["run_id"], metric)
        return [point.step for point in history]

    def artifacts(self, run_dir, folder=None):
        found = self._client(self.uri).list_artifacts(position(run_dir)["run_id"], folder)
        return [artifact.path for artifact in found]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Made by three senders that start at once on a database that is not there; one loses its trainer."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-c", TRAIN, str(folder / "orphan"), uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout.readline() == "logged\n"
        trainer.kill()
    pair = [tracker(folder / name, uri) for name in ("left", "right")]
    figure = folder / "left" / "figures" / "accuracy.png"
    figure.parent.mkdir()
    figure.write_bytes(b"png")
    for t in pair:
        log(t, 1, 6)
    pair[0].log({"train/loss": float("nan"), "eval/chain sum+/pass_at_1": 0.5}, step=6, tokens=600)
    pair[0].artifact(figure)
    for t in pair:
        t.finish(wait_s=120)
    return Store(folder)


def test_a_run_arrives_whole_with_config_origin_and_artifacts(store):
    left = store.folder / "left"
    run = store.run(left)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "left")
    assert run.data.params["model.hidden"] == "64" and run.data.params["model.layers"] == "[1, 2]"
    assert run.data.params["path"] == "/data" and len(run.data.params["text"]) == 6000
    tags = run.data.tags
    assert (tags["seed"], tags["stage"], tags["run_dir"]) == ("3", "zero", str(left))
    assert tags["commit"] == tracking.git_state()["commit"] and tags["system/python"].startswith("3.12")
    assert store.steps(left) == [1, 2, 3, 4, 5]  # the NaN of step 6 is a gap
    assert store.steps(left, "eval/chain sum_/pass_at_1") == [6]
    assert run.data.metrics["train/tokens"] == 600
    assert store.artifacts(left, "figures") == ["figures/accuracy.png"]


def test_senders_may_make_the_database_at_once(store):
    runs = [store.run(store.folder / name) for name in ("left", "right")]
    assert runs[0].info.experiment_id == runs[1].info.experiment_id
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].info.run_id != runs[1].info.run_id


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store, tmp_path):
    run_dir = tmp_path / "resumed"
    first = tracker(run_dir, store.uri)
    log(first, 1, 4)
    first.finish("KILLED", wait_s=120)
    before = store.run(run_dir)
    second = tracker(run_dir, store.uri, config=CONFIG | {"model": {"hidden": 128}})
    log(second, 4, 7)
    second.finish(wait_s=120)
    after = store.run(run_dir)
    assert (before.info.status, after.info.status) == ("KILLED", "FINISHED")
    assert before.info.run_id == after.info.run_id and first.run_id == second.run_id
    assert store.steps(run_dir) == [1, 2, 3, 4, 5, 6]
    assert (after.data.params["model.hidden"], after.data.tags["resumed/model.hidden"]) == ("64", "128")


def test_a_sender_that_is_killed_is_replaced_and_no_point_is_lost_or_doubled(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_LOOK_EVERY_S", 0.1)
    run_dir = tmp_path / "killed"
    t = tracker(run_dir, store.uri)
    log(t, 0, 500)
    wait_for(lambda: position(run_dir)["line"] > 0)
    sender = int((run_dir / "mlflow.lock").read_text())
    os.kill(sender, signal.SIGKILL)
    wait_for(lambda: t._sender.poll() is not None)
    kept = position(run_dir)
    assert 0 < kept["line"] < 500
    # killed after MLflow had taken a batch, before the position was written: the batch is sent again
    (run_dir / "mlflow.json").write_text(json.dumps(kept | {"line": kept["line"] - 100}))
    time.sleep(0.2)
    log(t, 500, 600)
    assert t._sender.poll() is None and t._sender.pid != sender
    t.finish(wait_s=120)
    assert store.steps(run_dir) == list(range(600))
    assert store.run(run_dir).info.status == "FINISHED"


def test_an_unreachable_server_costs_one_warning_and_sync_sends_all_elsewhere(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_LOOK_EVERY_S", 0.0)
    run_dir = tmp_path / "offline"
    t = tracker(run_dir, "http://user:secret@127.0.0.1:9")
    log(t, 0, 10)
    wait_for((run_dir / "mlflow_problem.txt").exists)
    log(t, 10, 20)
    t.finish()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: MLflow at http://127.0.0.1:9 cannot be reached")
    assert warning.endswith(f"r1 sync run.dir={run_dir}")
    said = sync(run_dir, store.uri)
    assert "20 lines of metrics are in MLflow" in said
    assert store.steps(run_dir) == list(range(20)) and store.run(run_dir).info.status == "FINISHED"
    assert capsys.readouterr().err == ""


def test_a_run_whose_process_dies_is_sent_whole_and_marked_failed(store):
    run_dir = store.folder / "orphan"
    wait_for(lambda: position(run_dir)["status"] == "FAILED")
    assert store.steps(run_dir) == list(range(30)) and store.run(run_dir).info.status == "FAILED"


def test_sync_says_what_is_wrong(tmp_path):
    with pytest.raises(R1Error, match="no run.json"):
        sync(tmp_path)
    run_dir = tmp_path / "run"
    tracker(run_dir, None).finish()
    with pytest.raises(R1Error, match="made without MLflow"):
        sync(run_dir)
    with pytest.raises(R1Error, match=r"tracking.uri=sqlite:///.*/no_folder/m.db: cannot be reached"):
        (tmp_path / "no_folder").write_text("a file")
        sync(run_dir, f"sqlite:///{tmp_path}/no_folder/m.db")
    with lock(run_dir / "mlflow.lock", wait=False):
        assert "is sending this run's metrics already" in sync(run_dir, f"sqlite:///{tmp_path}/m.db")
