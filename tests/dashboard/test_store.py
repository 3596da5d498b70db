"""What the store reads, and what it refuses to open."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import streamlit as st
from mlflow import MlflowClient
from mlflow.entities import Metric

from dashboard import config_diff, guard, lengths, metrics_file, mlflow_read, sample_files, store, tail
from dashboard.metrics_file import MetricsFile
from tests.dashboard.made import HOSTILE, metrics_line, write_run, write_samples


def line(step: int, **metrics: float | None) -> bytes:
    return json.dumps({"step": step, "tokens": 10 * step, "time": 1.0, "metrics": metrics}).encode() + b"\n"


def test_metrics_are_read_on_and_a_cut_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    assert file.read().frame().empty
    path.write_bytes(line(1, a=1.0) + line(2, a=2.0)[:20])
    assert list(file.read().frame()["step"]) == [1.0]
    with path.open("ab") as more:
        more.write(line(2, a=2.0)[20:] + line(3, a=None, b=5.0))
    frame, unreadable = file.read().frame(), file.read().unreadable
    assert list(frame["step"]) == [1.0, 2.0, 3.0]
    assert frame["a"].isna().tolist() == [False, False, True]
    assert frame["b"].tolist()[2] == 5.0
    assert unreadable == 0


def test_clean_and_broken_blocks_are_parsed_alike() -> None:
    lines = [line(step, a=step / 3, b=None if step % 2 else 2 * step) for step in range(1, 40)]
    clean, bad = metrics_file.parse(b"".join(lines))
    slow, worse = metrics_file.parse(b"".join([*lines, b"{half"]) + b"\n")
    assert (bad, worse) == (0, 1)
    for name in ("step", "tokens", "time", "a", "b"):
        np.testing.assert_array_equal(clean[name], slow[name])
    assert clean["b"][1] == 4.0 and np.isnan(clean["b"][0])


def test_only_what_is_asked_for_becomes_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, a=1.0, b=2.0))
    columns = MetricsFile(path).read()
    assert list(columns.frame(["b", "absent", "b"])) == ["step", "tokens", "time", "b"]
    assert columns.names == ["a", "b"]


def test_columns_that_nobody_looks_at_are_dropped(tmp_path: Path) -> None:
    cache = metrics_file.MetricsCache(limit=100)
    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(line(1, a=1.0) + line(2, a=float(number)))
        assert cache.read(path).values["a"].tolist() == [1.0, number]
    assert list(cache.files) == [str(path)]


def test_the_tail_tells_how_far_a_run_came(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert tail.of(path) == tail.Tail()
    score = {"eval/t/pass_at_1": 0.25, "eval/t/pass_at_1_low": 0.2, "eval/t/pass_at_1_high": 0.3}
    filler = {f"rl/name_{i}": 1.0 for i in range(200)}
    steps = [
        json.dumps({"step": s, "tokens": 10 * s, "time": 1000.0 + 2 * s, "metrics": filler | {"time/step_s": 2.0}})
        for s in range(1, 1001)
    ]
    steps[300] = json.dumps({"step": 301, "tokens": 3010, "time": 1602.0, "metrics": score | {"time/step_s": 2.0}})
    path.write_text("\n".join(steps) + '\n{"step": 1001, "metr')
    assert path.stat().st_size > 3 * tail.SEARCHED  # the evaluation is neither at the start nor at the end
    found = tail.of(path)
    assert (found.step, found.tokens, round(found.steps_per_s, 6)) == (1000, 10_000.0, 0.5)
    assert found.pass_at_1 == {}, "where the start has none, the middle is not read"
    steps[10] = steps[300].replace("301", "11").replace("0.25", "0.125")
    path.write_text("\n".join(steps) + "\n")
    assert tail.of(path).pass_at_1 == {"t": (0.25, 0.2, 0.3)}
    assert tail.progress("zero", {"rl": {"steps": 2000}}, found) == (0.5, 2000.0)
    assert tail.progress("pretrain", {"pretrain": {"tokens": 10_000}}, found) == (1.0, None)
    assert tail.progress("sft", {"rl": {"steps": 2000}}, found) == (None, None)


def test_seeds_of_one_experiment_are_told_from_others() -> None:
    def group(key: str, **rl: object) -> str:
        own = key.partition("/")[0]
        config = {"run": {"seed": hash(key), "dir": f"runs/{key}"}, "rl": {"checkpoint": f"runs/{own}/base", **rl}}
        return config_diff.group_of(key, config, "c0ffee")

    assert group("a/zero", lr=1) == group("b/zero", lr=1)
    assert group("a/zero", lr=1) != group("b/zero", lr=2)
    other = config_diff.group_of("a/zero", {"rl": {"checkpoint": "runs/c/base", "lr": 1}}, "c0ffee")
    assert other != group("a/zero", lr=1)


@pytest.mark.parametrize(
    ("address", "token", "proxy", "said"),
    [
        ("127.0.0.1", "", "", None),
        ("localhost", "", "", None),
        ("::1", "", "", None),
        ("0.0.0.0", "", "", "R1_DASHBOARD_TOKEN"),
        (None, "", "", "address=all"),
        ("", "", "", "address=all"),
        ("somewhere.example", "", "", "R1_DASHBOARD_PROXY"),
        ("0.0.0.0", "s" * 16, "", None),
        ("0.0.0.0", "short", "", "can be guessed"),
        ("0.0.0.0", "", "nginx with single sign-on", None),
    ],
)
def test_only_this_machine_is_served_without_a_token(address, token, proxy, said, monkeypatch) -> None:
    monkeypatch.setenv("R1_DASHBOARD_TOKEN", token)
    monkeypatch.setenv("R1_DASHBOARD_PROXY", proxy)
    why = guard.problem(address)
    assert why is None if said is None else said in why


def test_answers_are_read_by_column_and_by_question(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "step_000002.parquet", 2)
    found = store.samples(path, ["question_id", "text", "sampler_logprobs"], question="countdown/train/8")
    assert list(found) == ["question_id", "text", "sampler_logprobs"] and len(found) == 4
    assert set(found["question_id"]) == {"countdown/train/8"} and found["sampler_logprobs"][0] == [-0.5, -0.1]
    assert store.samples(path, question="' OR 1=1").empty
    measured = sample_files.measured(path)
    assert measured["outcome"].tolist() == [
        "correct",
        "truncated",
        "wrong",
        "wrong",
        "wrong",
        "truncated",
        "wrong",
        "wrong",
    ]


def test_lengths_have_quantiles_by_result_and_accuracy_its_interval() -> None:
    tokens = [float(n) for n in range(1, 101)]
    outcome = ["correct"] * 50 + ["wrong"] * 50
    found = pd.DataFrame({"step": 3, "response_tokens": tokens, "thinking_tokens": tokens, "outcome": outcome})
    every = lengths.through_training(found, "r", "response", split=False)
    assert every[["x", "low", "value", "high", "n"]].values.tolist() == [pytest.approx([3, 10.9, 50.5, 90.1, 100])]
    split = lengths.through_training(found, "r", "thinking", split=True).set_index("series")
    assert split["value"].to_dict() == {"correct": 25.5, "wrong": 75.5}
    bins = lengths.accuracy_by_length(found, "r", "response")
    assert len(bins) == lengths.BINS and bins["n"].sum() == 100
    assert bins["value"].iloc[0] == 1.0 and bins["value"].iloc[-1] == 0.0
    assert lengths.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert lengths.accuracy_by_length(found[:5], "r", "response").empty


def test_a_resumed_run_keeps_the_later_value_and_null_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, a=1.0) + line(2, a=2.0) + line(1, b=7.0) + line(2, a=3.0) + line(2, a=None))
    frame = MetricsFile(path).read().frame()
    assert frame[["step", "a"]].values.tolist() == [[1.0, 1.0], [2.0, 3.0]]
    assert frame["b"][0] == 7.0


def test_lines_that_are_no_record_are_counted_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = [
        b"{",
        b"[]",
        b"null",
        b'{"step": 1}',
        b'{"step": "x", "metrics": {}}',
        b'{"step": 1, "metrics": 3}',
        b"\xff\x00",
    ]
    bad += [b"[" * 100_000, b'{"step": 1e999, "metrics": {}}']
    huge = b'{"step": 6, "tokens": 1, "metrics": {"a": 1' + b"0" * 400 + b"}}"
    good = b'{"step": 5, "metrics": {"a": 1.5, "s": "text", "t": true, "n": NaN, "step": 9}}'
    path.write_bytes(b"\n".join([*bad, huge, good, b""]))
    columns = MetricsFile(path).read()
    frame, unreadable = columns.frame(), columns.unreadable
    assert unreadable == len(bad) + 1
    assert frame[["step", "a"]].values.tolist() == [[5.0, 1.5]]
    assert set(frame.columns) == {"step", "tokens", "time", "a"}


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, a=1.0) + line(2, a=2.0))
    file = MetricsFile(path)
    file.read()
    path.write_bytes(line(9, a=9.0))
    assert list(file.read().frame()["step"]) == [9.0]


def test_links_out_of_the_store_are_not_followed(runs: Path) -> None:
    outside = write_run(runs.parent / "outside")
    inside = write_run(runs / "zero", samples=(10,))
    (runs / "linked").symlink_to(outside)
    (inside / "samples" / "step_000020.parquet").symlink_to(outside / "samples" / "step_000010.parquet")
    (inside / "metrics.jsonl").unlink()
    (inside / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    known = store.known().runs
    assert list(known) == ["zero"]
    assert list(store.sample_files(known["zero"], "training")) == [10]
    read = store.metrics(known["zero"])
    assert read.frame.empty and "link out of the run store" in read.problem


def test_a_run_that_went_quiet_is_not_shown_as_running(runs: Path) -> None:
    folder = write_run(runs / "zero", status="RUNNING")
    assert store.known().runs["zero"].status == "running"
    long_ago = time.time() - 2 * store.QUIET_S
    for name in ("metrics.jsonl", "run.json"):
        os.utime(folder / name, (long_ago, long_ago))
    st.cache_data.clear()
    st.cache_resource.clear()
    assert store.known().runs["zero"].status == "silent"


def test_samples_of_other_shapes_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"\xff\xfe broken", None], pa.binary()).view(pa.string())
    path = tmp_path / "step_000001.parquet"
    pq.write_table(pa.table({"text": texts, "reward": ["1.0", "high", None], "reward_x": [1, 2, 3]}), path)
    frame = store.samples(path)
    assert frame["text"].tolist() == ["ok", "\ufffd\ufffd broken", None]
    assert frame["reward"].isna().tolist() == [False, True, True]
    assert frame["advantage"].isna().all() and "reward_x" in frame
    whole = write_samples(tmp_path / "step_000002.parquet", 2)
    assert HOSTILE in store.samples(whole)["text"][2]
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(store.Unreadable, match="step_000002.parquet"):
        store.samples(whole)
    with pytest.raises(store.Unreadable):
        store.samples(tmp_path / "step_000003.parquet")


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's own tables with two runs: one with a folder, one without."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("r1lab")
    for name, tag in (("zero", "id-of-zero"), ("far", "id-of-far")):
        tags = {"run_id": tag, "stage": "zero", "seed": "3", "run_dir": "/etc"}
        run = client.create_run(experiment, 1_700_000_000_000, tags, run_name=name).info.run_id
        points = [Metric("rl/kl", 0.5, 1000, 1), Metric("train/tokens", 64.0, 1000, 1), Metric("rl/kl", 0.25, 2000, 2)]
        client.log_batch(run, [*points, Metric("rl/kl", float("nan"), 3000, 3)])
        client.set_terminated(run, "KILLED", round(time.time() * 1000) + 60_000)
    deleted = client.create_run(experiment, run_name="deleted").info.run_id
    client.delete_run(deleted)
    return uri


def test_sql_reads_what_mlflow_reads(mlflow_uri: str) -> None:
    by_sql = sorted(mlflow_read.list_runs(mlflow_uri), key=lambda r: r.id)
    by_client = sorted(mlflow_read._runs_by_client(mlflow_uri), key=lambda r: r.id)
    assert by_sql == by_client
    assert {run.name for run in by_sql} == {"zero", "far"}
    points = mlflow_read.read_metrics(mlflow_uri, by_sql[0].id)
    assert sorted(points) == sorted(mlflow_read._metrics_by_client(mlflow_uri, by_sql[0].id))
    assert len(points) == 3


def test_reading_leaves_no_trace(mlflow_uri: str) -> None:
    path = mlflow_read.sqlite_path(mlflow_uri)
    before = path.read_bytes(), sorted(path.parent.iterdir())
    mlflow_read.list_runs(mlflow_uri)
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before
    assert mlflow_read.list_runs(f"sqlite:///{path.parent}/absent.db") == []
    assert not (path.parent / "absent.db").exists()


def test_folder_and_mlflow_are_one_run_and_a_folder_named_by_mlflow_is_not_opened(
    runs: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1_MLFLOW_URI", mlflow_uri)
    write_run(runs / "zero", status="RUNNING")
    known = store.known().runs
    (far,) = [key for key in known if key.startswith("far ")]
    assert set(known) == {"zero", far}
    assert known["zero"].status == "killed"  # the sender noticed, run.json could not say it
    assert known["zero"].seed == "7"
    assert known[far].folder is None
    assert store.sample_files(known[far], "training") == {}
    frame = store.metrics(known[far]).frame
    assert frame[["step", "rl/kl"]].values.tolist() == [[1.0, 0.5], [2.0, 0.25]]
    assert frame["tokens"][0] == 64.0


def test_a_server_that_is_away_gives_a_message_without_its_password() -> None:
    with pytest.raises(mlflow_read.MlflowUnreadable, match="127.0.0.1:9") as raised:
        mlflow_read.list_runs("http://user:secret@127.0.0.1:9")
    assert "secret" not in str(raised.value)


def test_metrics_line_is_what_the_tracker_writes(tmp_path: Path) -> None:
    from infra.tracking import Tracker

    tracker = Tracker(tmp_path, experiment="e", name="n", config={}, uri=None, seed=5, tags={"stage": "zero"})
    tracker.log({"a": 1.0, "b": float("nan")}, step=3, tokens=99)
    tracker.finish()
    assert set(json.loads(metrics_line(1))) == set(json.loads((tmp_path / "metrics.jsonl").read_text()))
    run, problem = store._from_folder(tmp_path, tmp_path.parent)
    assert (run.name, run.stage, run.seed, run.status, problem) == ("n", "zero", "5", "finished", None)
    assert run.started is not None
    columns = MetricsFile(tmp_path / "metrics.jsonl").read()
    assert columns.frame(["a"]).values[:, [0, 1, 3]].tolist() == [[3.0, 99.0, 1.0]] and columns.unreadable == 0
