"""No task trains on what the tests ask: the assertion in the code, where a split is broken on purpose."""

import dataclasses

import pytest

from rl.tasks import countdown, derivatives, general
from rl.tasks.base import for_training
from rl.tasks.benchmarks import BenchmarkTask, same_question
from rl.tasks.countdown import Countdown
from rl.tasks.derivatives import Derivatives
from rl.tasks.general import GeneralTask
from rl.types import Question
from training.data.countdown import orders
from training.data.general import exchanges


def test_a_test_question_is_not_trained_on():
    question = Question("t/0", "t", "User: a?", "b")
    assert for_training(question, held=False) is question
    with pytest.raises(AssertionError, match="t/0 is a test question: User: a"):
        for_training(question, held=True)


def test_countdown_notices_held_out_numbers(monkeypatch):
    monkeypatch.setattr(countdown, "orders", lambda held: orders(held=True))
    with pytest.raises(AssertionError, match="countdown/train/0 is a test question"):
        Countdown().train_question(0)


def test_general_tasks_notice_held_out_exchanges(monkeypatch):
    monkeypatch.setattr(general, "exchanges", lambda kind, held: exchanges(kind, held=True))
    with pytest.raises(AssertionError, match="facts/train/3 is a test question"):
        GeneralTask("facts").train_question(3)


def test_derivatives_notice_a_split_that_changes_its_mind(monkeypatch):
    verdicts = iter([False, True])
    monkeypatch.setattr(derivatives, "in_test_split", lambda text: next(verdicts))
    with pytest.raises(AssertionError, match="derivatives/train/0 is a test question"):
        Derivatives().train_question(0)


def test_benchmarks_notice_a_question_of_the_test_part(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "a b?", "answer": "#### 1"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "c", "answer": "#### 1"}\n')
    task = BenchmarkTask("gsm8k", path=str(tmp_path))
    assert task.train_question(0).answer == "1"
    train, test = task._parts
    task._parts = (train, [dataclasses.replace(test[0], question="A  b ?")])
    del task._held
    assert same_question("A  b ?") == same_question("a b?")
    with pytest.raises(AssertionError, match="gsm8k/train/0 is a test question"):
        task.train_question(0)
