"""The journey as a user runs it: `r1 reproduce` at a size of seconds, cut short and begun again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments import reproduce
from tests import gloo

SMALL = [
    "pretrain.tokens=6000",
    "pretrain.batch_tokens=1000",
    "pretrain.tokenizer_documents=200",
    "pretrain.evaluate_documents=8",
    "rl.steps=3",
    "rl.questions_per_step=4",
    "rl.group_size=4",
    "rl.evaluate_every=1",
    "rl.save_every=1",
    "sampling.max_response_tokens=32",
    "evaluate.questions=8",
    "evaluate.samples=8",
    "evaluate.curve_questions=8",
    "evaluate.curve_samples=2",
]


def _command(folder: Path, *more: str) -> list[str]:
    uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    return [sys.executable, "-m", "infra.cli", "reproduce", f"run.dir={folder}/run", uri, *SMALL, *more]


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """A journey that was told to stop in the middle of R1-Zero, and run again."""
    folder = tmp_path_factory.mktemp("journey")
    env = os.environ | {"R1_SETUP_SECONDS": "3"}
    metrics = folder / "run" / "zero" / "metrics.jsonl"
    first = subprocess.Popen(_command(folder), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not (metrics.exists() and '"rl/entropy"' in metrics.read_text()):
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    stopped = first.communicate(timeout=120)
    second = subprocess.run(_command(folder), env=env, capture_output=True, text=True, timeout=240)
    return folder / "run", (first.returncode, *stopped), second


def test_a_stopped_journey_says_so_and_leaves_with_0(journey):
    _, (code, _, said), _ = journey
    assert code == 0, said
    assert "the same command goes on from there" in said and "Traceback" not in said


def test_the_journey_goes_on_where_it_was(journey):
    folder, _, second = journey
    assert second.returncode == 0, second.stderr
    assert "going on from step" in second.stderr and "Traceback" not in second.stderr
    steps = [json.loads(line)["step"] for line in (folder / "base" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6  # the base was not trained again


def test_summary_holds_what_is_promised(journey):
    folder, _, _ = journey
    summary = json.loads((folder / "summary.json").read_text())
    assert {"scale", "seed", "commit", "peak_memory_gib", "seconds", "base", "zero"} <= summary.keys()
    assert {"setup", "pretrain", "zero", "evaluate", "total"} == summary["seconds"].keys()
    assert summary["seconds"]["setup"] == 3 and 0 < summary["peak_memory_gib"] < 6
    for model in ("base", "zero"):
        scores = summary[model]
        assert scores["pass_at_1"]["low"] <= scores["pass_at_1"]["mean"] <= scores["pass_at_1"]["high"]
        assert {"majority_at_8", "response_tokens", "reflection_rate", "format_rate", "questions"} <= scores.keys()
        assert scores["questions"] == 8 and 0 < scores["response_tokens"] <= 32


def test_table_figures_and_answers_are_shown(journey):
    folder, _, second = journey
    for words in ("pass@1", "majority@8", "R1-Zero at the end", "make dashboard", "Seconds: setup 3"):
        assert words in second.stdout
    for name in ("accuracy", "response_length", "reflection"):
        assert (folder / "zero" / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    answers = pd.read_parquet(folder / "zero_answers.parquet")
    assert len(answers) == 64 and answers.response_tokens.mean() == pytest.approx(
        json.loads((folder / "summary.json").read_text())["zero"]["response_tokens"]
    )


def test_evaluate_and_generate_read_the_run(journey, tmp_path):
    folder, _, _ = journey
    settings = [a for a in SMALL if a.startswith(("evaluate.q", "evaluate.s", "sampling"))]
    base = [sys.executable, "-m", "infra.cli"]
    said = subprocess.run(
        [
            *base,
            "evaluate",
            f"evaluate.checkpoint={folder}/zero",
            f"run.dir={tmp_path}",
            "evaluate.json=true",
            *settings,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    told, stored = json.loads(said.stdout), json.loads((folder / "zero.json").read_text())
    assert {key: told[key] for key in stored} == stored
    spoken = subprocess.run(
        [
            *base,
            "generate",
            f"generate.checkpoint={folder}/zero",
            "generate.prompt=Make 18 from 3, 5, 8.",
            settings[-1],
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert spoken.returncode == 0 and spoken.stdout.strip(), spoken.stderr


def _killed_in_a_part(path: str) -> None:
    reproduce.WRITE_EVERY_S = 0.1
    with reproduce.Journal(Path(path)).part("zero"):
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_start_that_was_killed_keeps_its_seconds(tmp_path):
    path, start = tmp_path / "journal.json", time.perf_counter()
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(_killed_in_a_part, str(path), ranks=1)
    before = json.loads(path.read_text())["seconds"]["zero"]
    with reproduce.Journal(path).part("zero"):
        time.sleep(0.3)
    after = json.loads(path.read_text())["seconds"]["zero"]
    assert before > 0.7 and before + 0.3 <= after < time.perf_counter() - start
