"""`r1 evaluate`: what it writes, and the settings it refuses; a fake engine answers."""

import json

import pandas as pd
import pytest

from experiments import evaluation
from experiments.config import compose
from experiments.summary import as_summary
from infra.errors import ConfigError
from rl.evaluate import Suite
from tests.rl.fake_engine import FakeEngine, Letters
from tests.rl.test_evaluate import think_then_say

BASE = "checkpoint=experiments/base"


class ShortTemplates(Letters):
    """As a model of ours, whose tasks are asked in the short form."""

    is_own, has_chat = True, False


@pytest.fixture
def report(tmp_path):
    given = [BASE, f"run.dir={tmp_path}", "questions=5", "k=2", "suite=general", "budget=[0,4,64]"]
    return evaluation.run(compose("evaluate", given), FakeEngine(think_then_say), ShortTemplates(), tmp_path)


def test_json_has_all_tasks_with_intervals_and_the_budgets(report, tmp_path):
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores == json.loads(json.dumps(report.to_dict()))
    assert list(scores["tasks"]) == ["number_words", "facts", "writing", "refusal"]
    assert scores["questions"] == 20 and scores["samples"] == 2 and scores["pass_at_1"]["mean"] == 0.0
    for part in (scores, *scores["tasks"].values(), *scores["budgets"]):
        assert {"response_tokens", "thinking_tokens", "language_consistency", "format_rate"} <= part.keys()
        found = part["intervals"]
        assert found["pass_at_1"] == part["pass_at_1"] and found["pass_at_2"].keys() == {"mean", "low", "high"}
        assert found["response_tokens"].keys() == {"all", "correct", "wrong", "truncated"}
        assert found["response_tokens"]["correct"] is None and found["majority_at_2"]["mean"] == 0.0
    assert [(p["budget"], p["thinking_tokens"]) for p in scores["budgets"]] == [(0, 0.0), (4, 2.0), (64, 6.5)]
    assert json.loads((tmp_path / "budget.json").read_text())["points"] == scores["budgets"]
    assert (tmp_path / "budget.png").read_bytes()[:4] == b"\x89PNG"


def test_every_answer_is_kept(report, tmp_path):
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert len(answers) == 40 and set(answers.task) == set(report.tasks)
    cut = pd.read_parquet(tmp_path / "budgets" / "answers_4.parquet")
    assert len(cut) == 40 and cut.text.str.startswith("<think>one </think>\n<answer>").sum() == 20


def test_table_has_a_line_a_task_and_a_budget(report):
    lines = report.table().splitlines()
    assert lines[0].split() == ["pass_at_1", "0.000", "[0.000,", "0.000]"]
    tasks = next(i for i, line in enumerate(lines) if line.startswith("task "))
    assert lines[tasks].split() == (
        "task questions pass@1 pass@2 majority@2 format language tokens thinking self-checks".split()
    )
    assert lines[tasks + 2].split()[:2] == ["facts", "5"]
    assert lines[-1].split()[0] == "64" and lines[-4].startswith("thinking budget")


def test_a_single_task_has_the_figures_of_before(tmp_path):
    cfg = compose("evaluate", [f"evaluate.{BASE}", "evaluate.questions=3", "task.names=[refusal]"])
    assert cfg.evaluate.suite is Suite.task
    one = evaluation.run(cfg, FakeEngine(think_then_say), ShortTemplates(), tmp_path)
    assert one.to_dict().items() >= as_summary(one.all).items()
    assert "budgets" not in one.to_dict() and not (tmp_path / "budget.png").exists()
    assert "task " not in one.table()


class Dies(FakeEngine):
    """Is killed at its fourth call."""

    calls = 0

    def generate(self, questions, group_size, *, step):
        self.calls += 1
        if self.calls == 4:
            raise KeyboardInterrupt
        return super().generate(questions, group_size, step=step)


def test_what_was_cut_short_asks_for_the_rest_and_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("rl.evaluate.ANSWERS_AT_A_TIME", 4)
    folder = tmp_path / "cut"
    given = [BASE, f"run.dir={folder}", "questions=5", "k=2", "suite=general", "budget=[0,4,64]"]

    def asked(engine: FakeEngine, *more: str) -> int:
        evaluation.run(compose("evaluate", [*given, *more]), engine, ShortTemplates(), folder)
        return len(engine.asked)

    with pytest.raises(KeyboardInterrupt):
        asked(Dies(think_then_say))
    assert len(list(folder.rglob("*.parquet"))) == 3
    with pytest.raises(KeyboardInterrupt):  # another model's or sampler's answers are not these
        asked(Dies(think_then_say), "sampling.temperature=0.5")
    assert len(list(folder.rglob("*.parquet"))) == 6
    once = FakeEngine(think_then_say)
    evaluation.run(compose("evaluate", given), once, ShortTemplates(), tmp_path / "once")
    assert asked(FakeEngine(think_then_say)) == len(once.asked) - 5  # 2 + 2 + 1 questions are known
    for name in ("evaluation.json", "budget.json", "answers.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert not (folder / evaluation.SO_FAR).exists()


@pytest.mark.parametrize(
    "given, message",
    [
        (["budget=[8,4]"], "evaluate.budget=.*rise"),
        (["budget=[0,320]", "sampling.max_response_tokens=300"], "evaluate.budget=.*no room for an answer.*at most"),
        (["suite=everything"], "evaluate.suite=everything.*task, reasoning, general, all"),
        (["k=0"], "evaluate.samples=0"),
        (["task.bad_rows=1"], "task.bad_rows=1.*share"),
        (["task.names=[gsm8k]", "task.path=nowhere"], "task.path=nowhere: is not there"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(given, message):
    with pytest.raises(ConfigError, match=message):
        compose("evaluate", [BASE, *given])


def test_the_issues_own_commands_compose():
    cfg = compose("evaluate", [BASE, "suite=all", "k=64"])
    assert (cfg.evaluate.suite, cfg.evaluate.samples, cfg.evaluate.checkpoint) == (Suite.all, 64, "experiments/base")
    assert compose("evaluate", [BASE, "budget=[0,64,128,256]"]).evaluate.budget == [0, 64, 128, 256]


def test_a_question_that_the_network_cannot_read_is_told_before_anything_is_asked(tmp_path):
    rows = [{"question": "How many? " * n, "answer": "#### 4"} for n in (1, 40)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [BASE, f"run.dir={tmp_path}", "questions=2", "task.names=[gsm8k]", f"task.path={tmp_path}/test.jsonl"]
    engine = FakeEngine(think_then_say)
    with pytest.raises(ConfigError, match="task.names=gsm8k: has a question of 416 tokens, and the network reads 384"):
        evaluation.run(compose("evaluate", given), engine, ShortTemplates(), tmp_path)
    assert engine.asked == []
