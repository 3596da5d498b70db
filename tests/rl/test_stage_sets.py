"""The sets that stages make keep their promises: right, readable, three to one, no test question."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import compose
from infra.errors import ConfigError, R1Error
from modeling.config import ModelConfig
from modeling.sampling import SamplingConfig
from rl.config import RLConfig
from rl.language import word_counts
from rl.reflection import reflects, thinking_of
from rl.rewards.base import RewardConfig, score
from rl.rewards.format import format_ok
from rl.stages import all_scenarios, cold_start, reasoning, rejection
from rl.stages.config import ColdStartConfig, FilterConfig, RejectionConfig, ScenariosConfig
from rl.stages.filters import unreadable
from rl.stages.sampling import Sample
from rl.tasks.base import TaskConfig, Template
from rl.tasks.countdown import Countdown
from rl.tasks.mix import build_task
from rl.types import Question
from training.data.countdown import held_out

ENGLISH = Question("q/1", "countdown", "User: Make 64 from 3, 5, 8.\nAssistant:", "(3+5)*8", {"target": 64})
CHINESE = replace(ENGLISH, prompt="用户：用 3, 5, 8 算出 64。\n助手：")
LINE = "3+5=8: +8=16 low -8=0 low *8=64 yes"


def thought(thinking: str) -> str:
    return f"<think>\n{thinking}\n</think>\n(3+5)*8=64\n<answer>(3+5)*8</answer>"


@pytest.mark.parametrize(
    ("thinking", "question", "reason"),
    [
        (LINE, ENGLISH, None),
        ("", ENGLISH, None),
        ("3+5=8: +8=16小 *8=64对", CHINESE, None),
        (LINE, CHINESE, "mixed_language"),  # one language, and not the question's
        (LINE + "\n那就", ENGLISH, "mixed_language"),
        ("```python\nprint(1)\n```", ENGLISH, "code_block"),
        (LINE * 20, ENGLISH, "long_paragraph"),
        ("\n".join([LINE] * 20), ENGLISH, None),
    ],
)
def test_unreadable_thinking_is_told_by_hand(thinking, question, reason):
    assert unreadable(thought(thinking), question, FilterConfig()) == reason


@pytest.mark.parametrize(
    ("text", "with_summary", "without"),
    [
        (thought(LINE), True, False),
        ("<think>a</think>\n<answer>1</answer>", False, True),
        ("<think>a</think> <answer>1</answer> so", False, False),
        ("<think>a</think> so 1", False, False),
        ("so <think>a</think> so <answer>1</answer>", False, False),
    ],
)
def test_the_format_with_a_summary(text, with_summary, without):
    assert (format_ok(text, summary=True), format_ok(text)) == (with_summary, without)


def test_language_is_paid_by_its_share_and_kept_in_the_breakdown():
    text = thought("3+5=8: *8=64 yes\n那就 so wait")  # three English words of five
    task = Countdown()
    question = replace(ENGLISH, meta={"numbers": [3, 5, 8], "target": 64})
    reward, parts = score(text, question, task, RewardConfig(language=0.5, summary=True))
    assert parts == {"accuracy": 1.0, "format": 1.0, "language": 3 / 5} and reward == pytest.approx(1.4)
    assert score(text, question, task, RewardConfig(summary=True))[1] == {"accuracy": 1.0, "format": 1.0}


def test_the_solvers_answers_are_right_long_readable_and_of_training_questions():
    task = Countdown()
    rows = cold_start.solver_rows(ColdStartConfig(share_chinese=0.3), task, 300, seed=0)
    assert len(rows) == 300 == len({row["id"] for row in rows})
    for number, row in enumerate(rows):
        question = task.train_question(number)
        assert task.score(question, row["response"]) == 1.0 and format_ok(row["response"], summary=True)
        assert unreadable(row["response"], replace(question, prompt=row["prompt"]), FilterConfig()) is None
        assert not held_out(tuple(question.meta["numbers"])) and row["question"] in row["prompt"]
    chinese = sum(row["language"] == "zh" for row in rows)
    assert 60 < chinese < 120
    assert all(word_counts(thinking_of(r["response"]))["en"] == 0 for r in rows if r["language"] == "zh")
    assert sum(reflects(row["response"]) for row in rows) == 300  # each is verified, R1 §2.3.1
    assert 0.1 < sum("wait" in r["response"] or "等等" in r["response"] for r in rows) / 300 < 0.7
    assert rows == cold_start.solver_rows(ColdStartConfig(share_chinese=0.3), task, 300, seed=0)


def test_the_solver_knows_countdown_alone():
    with pytest.raises(ConfigError, match="solver knows countdown alone"):
        cold_start.solver_rows(ColdStartConfig(), build_task(TaskConfig(names=["chain_sum"])), 1, seed=0)


def sample(text: str, *, right: bool = True, formed: bool = True, judge: float | None = None) -> Sample:
    return Sample(text=text, accuracy=float(right), format=float(formed), tokens=len(text), judge=judge)


def test_of_r1_zeros_answers_the_longest_right_readable_one_stays_with_a_summary():
    short = "<think>\n3+5=8: *8=64 yes\n</think>\n<answer>(3+5)*8</answer>"
    long = f"<think>\n{LINE}\n</think>\n<answer>(3+5)*8</answer>"
    wrong = f"<think>\n{LINE}{LINE}\n</think>\n<answer>3+5</answer>"
    mixed = f"<think>\n{LINE} 那就 对\n</think>\n<answer>(3+5)*8</answer>"
    answers = [[sample(short), sample(long), sample(wrong, right=False), sample(mixed), sample("", formed=False)]]
    rows, counts = cold_start.zero_rows([ENGLISH], answers, FilterConfig(), 5)
    assert [row["response"] for row in rows] == [thought(LINE)]
    assert counts == {"sampled": 5, "kept": 1, "wrong": 1, "mixed_language": 1, "format": 1}
    assert cold_start.zero_rows([ENGLISH] * 2, answers * 2, FilterConfig(), 1)[1]["kept"] == 1


def test_rejection_keeps_a_few_right_readable_different_answers_and_counts_the_rest():
    texts = [thought(f"{i}+1={i + 1} low") for i in range(4)]
    answers = [
        [
            sample(texts[0]),
            sample(texts[0]),
            sample(texts[1], right=False),
            sample(thought("看")),
            sample(thought("```\n1\n```")),
            sample(thought("x" * 500)),
            sample(texts[2]),
            sample(texts[3]),
        ]
    ]
    rows, counts = rejection.reasoning_rows([ENGLISH], answers, RejectionConfig(), FilterConfig(), Template.short)
    assert [row["response"] for row in rows] == [texts[0], texts[2]]
    assert rows[0]["question"] == "Make 64 from 3, 5, 8." and len({row["id"] for row in rows}) == 2
    left_out = {"repeated": 1, "wrong": 1, "mixed_language": 1, "code_block": 1, "long_paragraph": 1, "enough": 1}
    assert counts == {"sampled": 8, "kept": 2} | left_out


def test_general_answers_are_the_models_where_rule_or_judge_agree_else_the_tasks():
    questions = [Question(f"facts/{i}", "facts", f"User: q{i}\nAssistant:", "Mirat") for i in range(4)]
    answers = [
        [sample(thought("own so"))],
        [sample(thought("judged so"), right=False, judge=0.8)],
        [sample(thought("bad so"), right=False, judge=0.3)],
        [],
    ]
    cfg = RejectionConfig(judge_least=0.7)
    rows, counts = rejection.general_rows(questions, answers, cfg, FilterConfig(), Template.short)
    assert counts == {"asked": 4, "own": 2, "reference": 2, "none": 0}
    assert [row["source"] for row in rows] == ["own", "own", "reference", "reference"]
    assert rows[2]["response"] == "<think>\n\n</think>\nMirat\n<answer>Mirat</answer>"
    assert all(row["part"] == "general" and format_ok(row["response"], summary=True) for row in rows)
    none = replace(cfg, references=False)
    assert rejection.general_rows(questions, answers, none, FilterConfig(), Template.short)[1]["none"] == 2


@given(reasoning=st.integers(3, 200), general=st.integers(1, 100))
def test_the_set_is_three_to_one_whatever_there_was(reasoning, general):
    parts = (
        [{"part": name, "id": i} for i in range(n)] for name, n in (("reasoning", reasoning), ("general", general))
    )
    rows = rejection.mixture(*parts, 3.0, seed=0, only_reasoning=False)
    kinds = [row["part"] for row in rows]
    assert kinds.count("reasoning") == 3 * kinds.count("general") > 0
    assert len(rows) == 4 * min(general, reasoning // 3)


def test_an_empty_part_is_an_error_and_no_general_task_means_reasoning_alone():
    row = {"part": "reasoning", "id": 0}
    with pytest.raises(R1Error, match="no reasoning answer was kept"):
        rejection.mixture([], [row], 3, seed=0, only_reasoning=False)
    with pytest.raises(R1Error, match="no general answer was kept"):
        rejection.mixture([row], [], 3, seed=0, only_reasoning=False)
    with pytest.raises(R1Error, match="1 reasoning answers are fewer"):
        rejection.mixture([row], [row], 3, seed=0, only_reasoning=False)
    assert rejection.mixture([row], [], 3, seed=0, only_reasoning=True) == [row]


def test_general_questions_come_in_the_last_part_alone():
    cfg = RLConfig(steps=17, questions_per_step=8, group_size=2)
    make = all_scenarios.tasks(ScenariosConfig(general=["chain_sum"], general_part=4 / 17, general_share=0.5), cfg)
    task = make(TaskConfig(), None)
    asked = [task.train_question(i) for i in range(17 * 8)]
    general = [question.task == "chain_sum" for question in asked]
    assert not any(general[: 13 * 8]) and 6 <= sum(general[13 * 8 :]) <= 26
    assert all(bool(q.meta.get("general")) is is_general for q, is_general in zip(asked, general, strict=True))
    assert asked == [make(TaskConfig(), None).train_question(i) for i in range(17 * 8)]
    assert {q.task for q in task.test_questions(16)} == {"countdown"} and task.name == "countdown"
    for question in random.Random(0).sample(asked, 20):
        assert task.score(question, f"<answer>{question.answer}</answer>") == 1.0


def test_a_cold_start_with_answers_of_r1_zero_names_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ModelConfig().to_hf_dict()))
    given = [f"sft.checkpoint={tmp_path}", "cold_start.solver_share=0.5"]
    assert compose("cold_start", [*given, "cold_start.zero=runs/zero"]).cold_start.zero == "runs/zero"
    with pytest.raises(ConfigError, match="the others are R1-Zero's, and none is named"):
        compose("cold_start", given)


def test_reasoning_without_a_reward_for_language_is_refused():
    reasoning.check(RewardConfig(language=0.1))
    with pytest.raises(ConfigError, match="reward.language=0.0"):
        reasoning.check(RewardConfig())


def test_r1s_own_settings_are_in_its_stages_files():
    assert compose("all_scenarios", ready=False).sampling == SamplingConfig(temperature=0.7)
    assert compose("reasoning", ready=False).reward.language > 0
    assert compose("sft", ready=False).sft.epochs == 2 and RejectionConfig().reasoning_per_general == 3
    students = "qwen_1_5b qwen_7b qwen_14b qwen_32b llama_8b llama_70b".split()
    named = [compose("pretrain", [f"experiment=distill_{name}"]).sft.checkpoint for name in students]
    assert len(set(named)) == 6 and all(name.startswith(("hf:Qwen/Qwen2.5", "hf:meta-llama/Llama-3")) for name in named)
