"""What a tracker writes by itself: metrics, samples, the run's file, the commit. MLflow: test_mlflow_sender.py."""

import json
import math
import resource
import subprocess
import time

import pandas as pd
import pytest

from infra.tracking import Tracker, absolute_uri, git_state


def tracker(run_dir, **changed):
    options = {"experiment": "test", "name": "run", "config": {}, "uri": None, "seed": 3, "tags": {"stage": "zero"}}
    return Tracker(run_dir, **options | changed)


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_on_disk_when_log_returns_and_what_is_not_finite_is_null(tmp_path):
    t = tracker(tmp_path)
    t.log({"train/loss": math.nan, "train/lr": 0.5, "rl/kl": math.inf}, step=1, tokens=10)
    (record,) = records(tmp_path)
    assert record["metrics"] == {"train/loss": None, "train/lr": 0.5, "rl/kl": None}
    assert (record["step"], record["tokens"]) == (1, 10) and abs(record["time"] - time.time()) < 5
    t.finish()


def test_a_resumed_run_keeps_its_id_and_ends_the_line_a_crash_cut_short(tmp_path):
    first = tracker(tmp_path)
    first.log({"a": 1.0}, step=1, tokens=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tok')
    second = tracker(tmp_path, name="again")
    second.log({"a": 3.0}, step=3, tokens=3)
    second.finish("KILLED")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(lines[i])["step"] for i in (0, 2)] == [1, 3] and len(lines) == 3
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["run_id"] == first.run_id == second.run_id
    assert (run["status"], run["seed"], run["tags"]) == ("KILLED", 3, {"stage": "zero"})
    assert {"commit", "dirty", "created", "experiment"} <= run.keys()


def test_a_run_takes_its_id_its_commit_and_the_way_to_its_job_from_the_launcher(tmp_path, monkeypatch):
    given = {"R1_RUN_ID": "given", "R1_COMMIT": "abc", "R1_DIRTY": "1", "R1_LOGS": "/runs/logs", "SLURM_JOB_ID": "12"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    git_state.cache_clear()
    assert git_state(tmp_path) == {"commit": "abc", "dirty": True}  # no repository
    first = tracker(tmp_path / "run")
    first.finish()
    monkeypatch.setenv("R1_RUN_ID", "another")
    second = tracker(tmp_path / "run")
    second.finish()
    assert first.run_id == second.run_id == "given"
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["tags"] == {"stage": "zero", "slurm_job_id": "12", "logs": "/runs/logs"}


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    for name, enabled in (("off", False), ("rank", True)):
        t = tracker(tmp_path / name, enabled=enabled)
        t.log({"a": 1.0}, step=1, tokens=1)
        t.samples(1, [{"a": 1}])
        t.artifact(tmp_path)
        t.finish()
        assert (tmp_path / name).exists() == (name == "rank")
        assert (t.run_id == "") == (name == "off")
    monkeypatch.setenv("RANK", "1")
    tracker(tmp_path / "one").log({"a": 1.0}, step=1, tokens=1)
    assert not (tmp_path / "one").exists()


def test_metrics_that_a_full_disk_refuses_are_written_when_there_is_space_again(tmp_path, capsys):
    """A limit on the file's size stands for the full disk: it lets a part of a line through, then fails."""
    t = tracker(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        for step in range(10):
            t.log({"train/loss": 1.5}, step=step, tokens=step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.jsonl").stat().st_size == 200
    t.log({"train/loss": 1.5}, step=10, tokens=10)
    assert [record["step"] for record in records(tmp_path)] == list(range(11))
    t.finish()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and "File too large; training goes on" in warnings[0]


def test_samples_are_read_back_by_pandas_lists_included(tmp_path):
    rows = [
        {
            "text": "<think>3+4</think>",
            "reward": 1,
            "reward_format": 1.0,
            "tokens": ["3", "+"],
            "logprobs": [-0.5, -1.0],
        },
        {"text": "等等", "reward": 0.5, "tokens": [], "logprobs": []},
    ]
    t = tracker(tmp_path)
    t.samples(7, rows)
    t.finish()
    frame = pd.read_parquet(tmp_path / "samples" / "step_000007.parquet")
    assert frame["text"].tolist() == ["<think>3+4</think>", "等等"]
    assert frame["reward"].tolist() == [1.0, 0.5] and math.isnan(frame["reward_format"][1])
    assert [list(tokens) for tokens in frame["tokens"]] == [["3", "+"], []]
    assert list(frame["logprobs"][0]) == [-0.5, -1.0]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_000007.parquet"]


def test_samples_that_cannot_be_written_are_tried_again_with_one_warning(tmp_path, capsys):
    obstacle = tmp_path / "samples"
    t = tracker(tmp_path)
    obstacle.write_text("a file where the folder has to be")
    t.samples(1, [{"a": 1}])
    t.samples(2, [{"a": 2}])
    until = time.monotonic() + 20
    warned = ""
    while "not written" not in warned and time.monotonic() < until:
        warned += capsys.readouterr().err
        time.sleep(0.02)
    obstacle.unlink()
    t.samples(3, [{"a": 3}])
    t.finish()
    assert (warned + capsys.readouterr().err).count("warning") == 1
    assert [pd.read_parquet(path)["a"].item() for path in sorted(obstacle.iterdir())] == [1, 2, 3]


def test_rows_that_are_no_table_are_left_out_with_a_warning(tmp_path, capsys):
    t = tracker(tmp_path)
    t.samples(1, [{"a": "text"}, {"a": 1}])
    t.samples(2, [{"a": "text"}])
    t.finish()
    assert "samples of step 1 cannot be written as Parquet" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_000002.parquet"]


def test_git_state_knows_the_commit_and_changes_and_is_not_fooled_by_an_outer_repository(tmp_path):
    def git(*args):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", "-C", str(repo), *identity, *args], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    repo = tmp_path / "repo"
    (repo / "unpacked").mkdir(parents=True)
    assert git_state(repo) == {"commit": "unknown", "dirty": False}
    git("init", "-q")
    (repo / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    git_state.cache_clear()
    assert git_state(repo) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert git_state(repo / "unpacked") == {"commit": "unknown", "dirty": False}
    (repo / "a").write_text("2")
    git_state.cache_clear()
    assert git_state(repo)["dirty"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("sqlite:///runs/m.db", "sqlite:///{here}/runs/m.db"), ("sqlite:////x/m.db",) * 2, ("http://host:5000",) * 2],
)
def test_a_relative_database_is_the_same_file_from_every_folder(tmp_path, monkeypatch, uri, expected):
    monkeypatch.chdir(tmp_path)
    assert absolute_uri(uri) == expected.format(here=tmp_path)
