"""All of R1 at the size of a minute: from the released base to a distilled student, stopped once, and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from training.data.chat import file_hash
from training.data.countdown import held_out

SMALL = [
    "cold_start.examples=96",
    "cold_start.samples=2",
    "sft.epochs=2",
    "sft.batch_size=8",
    "rl.steps=2",
    "rl.questions_per_step=4",
    "rl.group_size=4",
    "rl.evaluate_every=2",
    "rl.save_every=1",
    "rejection.questions=48",
    "rejection.samples=2",
    "rejection.general=[chain_sum]",
    "rejection.general_questions=12",
    "rejection.general_samples=1",
    "all_scenarios.general=[chain_sum]",
    "all_scenarios.general_part=0.5",
    "reward_model.made_pairs=64",
    "reward_model.pairs_per_step=16",
    "reward_model.epochs=1",
    "pretrain.tokens=8000",
    "pretrain.batch_tokens=2000",
    "pretrain.tokenizer_documents=300",
    "pretrain.evaluate_documents=8",
    "evaluate.questions=8",
    "evaluate.samples=2",
    "evaluate.curve_questions=0",
]
STAGES = "base zero cold_start reasoning rejection sft all_scenarios student distill student_rl".split()


def r1(folder: Path, command: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", command, f"run.dir={folder}/run", "tracking.enabled=false", *more]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A graph that was killed in reasoning RL, and run again."""
    folder = tmp_path_factory.mktemp("r1")
    metrics = folder / "run" / "reasoning" / "metrics.jsonl"
    with open(folder / "first.err", "w") as said:
        first = subprocess.Popen(r1(folder, "r1", *SMALL), stdout=said, stderr=said, start_new_session=True)
    while first.poll() is None and not (metrics.exists() and '"time/save_s"' in metrics.read_text()):
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(r1(folder, "r1", *SMALL), capture_output=True, text=True, timeout=280)
    return folder / "run", (folder / "first.err").read_text(), second


def test_a_killed_graph_goes_on_at_the_stage_and_step(graph):
    folder, first, second = graph
    assert second.returncode == 0, first + second.stderr
    assert "reasoning: going on from step 1" in second.stderr and "Traceback" not in second.stderr
    for stage in ("zero", "cold_start", "reasoning"):
        steps = [json.loads(line)["step"] for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps), f"{stage} was trained again"


def test_the_summary_has_every_stage_with_what_is_promised(graph):
    folder, _, second = graph
    summary = json.loads((folder / "summary.json").read_text())
    assert [one["stage"] for one in summary] == STAGES
    keys = "stage seconds parents pass_at_1 response_tokens thinking_tokens language_consistency format_rate".split()
    for one in summary:
        assert {*keys, "reflection_rate"} <= one.keys()
        assert one["pass_at_1"]["low"] <= one["pass_at_1"]["mean"] <= one["pass_at_1"]["high"]
        assert one["seconds"] > 0 or one["stage"] == "base"
        assert one["stage"] in second.stdout
    assert (folder / "r1.png").read_bytes()[:4] == b"\x89PNG"


def test_the_parents_are_the_papers(graph):
    folder, _, _ = graph
    stored = {name: json.loads((folder / name / "lineage.json").read_text()) for name in STAGES if name != "base"}
    parents = {name: [(p["stage"], p["id"]) for p in one["parents"]] for name, one in stored.items()}
    base = parents["zero"][0]

    def known(name: str) -> tuple[str, str]:
        return stored[name]["stage"], stored[name]["id"]

    assert parents["cold_start"] == [base, known("zero")]
    assert parents["reasoning"] == [known("cold_start")]
    assert parents["rejection"] == [known("reasoning")]
    assert parents["sft"] == [base, known("rejection")]  # the base, not the reasoning model
    for name in ("helpful", "harmless"):
        stored[name] = json.loads((folder / name / "lineage.json").read_text())
        assert [p["id"] for p in stored[name]["parents"]] == [stored["sft"]["id"]]
    assert parents["all_scenarios"] == [known("sft"), known("helpful"), known("harmless")]
    assert parents["distill"] == [known("student"), known("rejection")]
    assert parents["student_rl"] == [known("student")]
    assert stored["distill"]["data"] == {"data.parquet": file_hash(folder / "rejection" / "data.parquet")}
    tags = json.loads((folder / "sft" / "run.json").read_text())["tags"]
    assert tags["lineage"] == stored["sft"]["id"] and base[1] in tags["parents"]


@pytest.mark.parametrize("stage", ["cold_start", "rejection"])
def test_no_set_holds_a_test_question(graph, stage):
    folder, _, _ = graph
    rows = pd.read_parquet(folder / stage / "data.parquet")
    countdown = rows[rows.task == "countdown"]
    numbers = [tuple(map(int, found)) for found in countdown.prompt.str.findall(r"\d+(?=[,. ])").map(lambda n: n[-3:])]
    assert len(numbers) > 0 and not any(map(held_out, numbers))
    assert json.loads((folder / stage / "counts.json").read_text())["rows"] == len(rows)


def test_the_set_is_three_to_one(graph):
    folder, _, _ = graph
    parts = pd.read_parquet(folder / "rejection" / "data.parquet").part.value_counts()
    assert parts["reasoning"] == 3 * parts["general"] > 0


def test_both_sources_are_in_the_cold_start(graph):
    folder, _, _ = graph
    sources = pd.read_parquet(folder / "cold_start" / "data.parquet").source.value_counts()
    assert sources.sum() == 96 and sources["zero"] > 0 and sources["solver"] >= 48


def test_the_student_is_of_another_family(graph):
    folder, _, _ = graph
    teacher, student = (json.loads((folder / n / "model" / "config.json").read_text()) for n in ("sft", "distill"))
    assert (teacher["model_type"], student["model_type"]) == ("deepseek_v3", "qwen2")


def test_run_again_only_what_changed_is_done_anew(graph):
    folder, _, _ = graph
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")}
    summary = {one["stage"]: one for one in json.loads((folder / "summary.json").read_text())}
    changed = [*SMALL, "r1.student=", "all_scenarios.general_share=0.25"]
    changed = subprocess.run(r1(folder.parent, "r1", *changed), capture_output=True, text=True, timeout=120)
    assert changed.returncode == 0 and "all_scenarios: its inputs have changed" in changed.stderr, changed.stderr
    assert [path.name.partition(".")[0] for path in folder.glob("*.*") if path.is_dir()] == ["all_scenarios"]
    assert all(
        path.stat().st_mtime_ns == time for path, time in before.items() if path.exists() and "all_s" not in str(path)
    )
    for one in json.loads((folder / "summary.json").read_text())[:-1]:  # the last is all_scenarios
        same = {key: value for key, value in summary[one["stage"]].items() if key != "seconds"}
        assert same == {key: value for key, value in one.items() if key != "seconds"}


def test_lineage_leads_from_the_student_to_the_base(graph):
    folder, _, _ = graph
    command = [sys.executable, "-m", "infra.cli", "lineage", f"checkpoint={folder}/distill"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    stages = [line.split()[0] for line in said.stdout.splitlines() if " id " in line]
    chain = ["distill", "pretrain", "rejection", "reasoning", "cold_start", "pretrain", "zero", "pretrain"]
    assert said.returncode == 0 and stages == chain
