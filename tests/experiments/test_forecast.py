"""What the doctor foretells, by hand; a run that is looked at, run, and compared with what was foretold."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import forecast
from experiments.config import compose
from experiments.forecast import Forecast, findings
from tests import gloo

RELEASED = Path(__file__).parents[2] / "experiments" / "base"
SMALL = ["rl.questions_per_step=8", "rl.group_size=4", "sampling.max_response_tokens=100"]


def config(*given: str) -> Any:
    return compose("zero", [f"rl.checkpoint={RELEASED}", *SMALL, *given])


def step(seconds: float, tokens: float, zero_variance: float, **more: float) -> dict[str, float]:
    shares = {"rl/truncated_frac": 0.25, "rl/reward/accuracy": 0.5}
    told = {"time/step_s": seconds, "rl/response_tokens": tokens, "rl/zero_variance_frac": zero_variance}
    return shares | told | more


RECORDS = [
    {"time/evaluate_s": 3.0},
    step(9.0, 40.0, 0.5, **{"memory/peak_gib": 1.0, "memory/activations_gib": 0.2}),
    step(2.0, 60.0, 0.25),
    {"time/evaluate_s": 2.0},
    {"time/save_s": 0.5},
]


def test_a_forecast_is_the_mean_of_the_shares_and_the_second_steps_time(monkeypatch) -> None:
    monkeypatch.setattr(forecast, "available_gib", lambda: 4.0)
    cfg = config("rl.steps=20", "rl.evaluate_every=10", "rl.save_every=10", "rl.micro_batch_tokens=500")
    found = forecast.forecast(RECORDS, cfg, ranks=2)
    assert (found.truncated_frac, found.zero_variance_frac, found.response_tokens) == (0.25, 0.375, 50.0)
    assert (found.answers, found.answers_per_rank, found.waves) == (32, 16.0, 1)
    assert found.rows_per_update == 32 * 0.625 / 2 == 10
    assert (found.step_s, found.step_s_longest) == (2.0, 4.0)  # answers of 100 tokens instead of 50
    assert found.total_s == 20 * 2.0 + 3 * 2.0 + 2 * 0.5
    # An update's 10 answers of 50 tokens are 250 tokens on each of 2 ranks, of 100 tokens 500, as many as may be.
    assert found.memory_gib == pytest.approx(1.0 + 0.2 * (500 / 250 - 1)) and found.memory_available_gib == 4.0


GOOD = Forecast(
    truncated_frac=0.02,
    zero_variance_frac=0.4,
    accuracy=0.3,
    response_tokens=40.0,
    answers=32,
    answers_per_rank=16.0,
    waves=1,
    rows_per_update=10.0,
    micro_batches=1,
    memory_gib=1.0,
    memory_available_gib=4.0,
    step_s=1.0,
    step_s_longest=2.0,
    total_s=60.0,
    total_s_longest=120.0,
)


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert findings(GOOD, config(), 2) == []


@pytest.mark.parametrize(
    ("bad", "refuse", "remedy"),
    [
        (dict(truncated_frac=0.2), False, "sampling.max_response_tokens=200"),
        (dict(truncated_frac=0.7), True, "sampling.max_response_tokens=200"),
        (dict(zero_variance_frac=0.8), False, "rl.group_size=8"),
        (dict(zero_variance_frac=1.0), True, "a stronger base"),
        (dict(zero_variance_frac=1.0, accuracy=1.0), True, "harder questions"),
        (dict(memory_gib=3.5), False, "rl.micro_batch_tokens=4096"),
        (dict(memory_gib=4.5), True, "rl.rollout_rows=64"),
        (dict(rows_per_update=1.0), False, "rl.minibatches=1"),
        (dict(answers=33), False, "rl.questions_per_step"),
    ],
)
def test_what_is_wrong_is_told_with_a_remedy_and_refused_where_the_run_would_be_in_vain(bad, refuse, remedy) -> None:
    (found,) = findings(replace(GOOD, **bad), config(), 2)
    assert found.refuse is refuse and remedy in found.text


def test_answers_of_older_weights_ask_for_a_correction() -> None:
    partial = "rl.rollout.partial_tokens=32"
    (found,) = findings(GOOD, config(partial), 2)
    assert not found.refuse and "rl.importance_cap=2" in found.text
    assert findings(GOOD, config(partial, "rl.importance_cap=2"), 2) == []
    assert findings(GOOD, config(partial, "rl.old_logprobs=sampler"), 2) == []
    (found,) = findings(GOOD, config(partial, "stage=mirror_descent"), 2)
    assert "rl.old_logprobs=sampler" in found.text


def work(folder: str) -> tuple[Any, ...]:
    """`r1 doctor zero`, then `r1 zero`, as they are typed, each in this one process; -> what they left and printed."""
    from infra import cli

    run = Path(folder) / "run"
    given = [f"rl.checkpoint={RELEASED}", f"run.dir={run}", "tracking.uri=", "parallel.nproc=1", "rl.steps=3"]
    given += ["rl.questions_per_step=4", "rl.group_size=4", "sampling.max_response_tokens=24"]
    given += ["evaluate.curve_questions=2", "evaluate.curve_samples=1"]
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said):
        refused = cli.main(["doctor", "zero", *given, "json=true"])
    left = sorted(path.name for path in run.iterdir())
    with redirect_stdout(told), redirect_stderr(io.StringIO()):
        code = cli.main(["zero", *given])
    kept = [json.loads((run / name).read_text()) for name in (forecast.FILE, forecast.CHECK)]
    steps = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return refused, said.getvalue(), left, code, told.getvalue(), kept, steps


def test_a_run_is_foretold_and_compared(tmp_path) -> None:
    refused, said, left, code, told, (expected, check), steps = gloo.run(work, str(tmp_path), ranks=1)[0]
    found = json.loads(said)
    assert left == [forecast.FILE] and code == 0
    # Cut at 24 tokens, the released base ends few answers: refused, and the run may be started all the same.
    assert refused == 1 and found["truncated_frac"] > 0.5
    assert any("sampling.max_response_tokens=48" in text for text in found["refused"])
    assert found["answers"] == 16 and found["ranks"] == 1 and 0.1 < found["memory_gib"] < 8
    assert {key: found[key] for key in expected} == expected
    first = next(row for row in steps if "rl/response_tokens" in row)
    assert first["rl/truncated_frac"] > 0  # the same seeds: the doctor saw the answers of the run's own first steps
    own = [row for row in steps if "rl/response_tokens" in row]
    assert found["response_tokens"] == pytest.approx(sum(r["rl/response_tokens"] for r in own[:2]) / 2)
    assert check["truncated_frac"]["came"] == pytest.approx(sum(r["rl/truncated_frac"] for r in own) / 3)
    assert check["step_s"]["expected"] == expected["step_s"] and check["total_s"]["came"] > 0
    assert "truncated_frac" in told and "trained model" not in told  # the table is the command's output


def test_the_first_steps_of_a_run_without_a_forecast_make_one(tmp_path, capsys, monkeypatch) -> None:
    class Log:
        def log(self, metrics: dict[str, float], *, step: int, tokens: int) -> None: ...

    monkeypatch.setattr(forecast, "available_gib", lambda: 4.0)
    tracker = forecast.FirstSteps(Log(), config(), tmp_path, ranks=1)
    for number, record in zip((0, 1, 2), RECORDS[:3], strict=True):
        assert not (tmp_path / forecast.FILE).exists()
        tracker.log(record, step=number, tokens=0)
    assert json.loads((tmp_path / forecast.FILE).read_text())["step_s"] == 2.0
    assert "25% of the answers are cut off" in capsys.readouterr().err
