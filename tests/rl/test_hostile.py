"""Every task's judge against text that wants to hang, blow up or run: never an exception, always soon."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.evaluate import _vote
from rl.language import word_counts
from rl.rewards.accuracy import answer_of
from rl.rewards.format import format_ok
from rl.tasks.base import Task
from rl.tasks.benchmarks import BENCHMARKS, BenchmarkTask
from rl.tasks.code import Code
from rl.tasks.countdown import Countdown
from rl.tasks.countdown_image import CountdownImage
from rl.tasks.derivatives import Derivatives
from rl.tasks.general import RULES, GeneralTask
from rl.tasks.gym import FAMILIES, GymTask
from rl.tasks.math import plain_number
from rl.tasks.problems import PROBLEMS
from rl.types import Question
from training.data.decontaminate import words_of

META = {"numbers": [3, 5, 8], "target": 64, "n": 42, "to": "zh", "length": 5, "words": ["river"]}
META |= {"harmful": False, "about": "rice"}
ANSWERS = {"gpqa": "B", "derivatives": "6x + 2", "math": "x^2", "math500": "x^2", "spell_backward": "olleh"}


def tasks(tmp_path) -> list[Task]:
    """One of each; benchmarks without their rows, which a judge does not need."""
    (tmp_path / "math.jsonl").write_text("")
    names = [name for name in BENCHMARKS if name not in PROBLEMS]  # programs have the sandbox (test_code.py)
    benchmarks = [BenchmarkTask(n, path=str(tmp_path / "math.jsonl") if n == "math" else "") for n in names]
    simple = [Countdown(), CountdownImage(), Derivatives(), *map(GymTask, FAMILIES), *map(GeneralTask, RULES)]
    return [*simple, *benchmarks]


@pytest.fixture(scope="module")
def every(tmp_path_factory) -> list[Task]:
    return tasks(tmp_path_factory.mktemp("math"))


def judged(task: Task, text: str) -> float:
    question = Question("q", task.name, "User: ?\nAssistant:", ANSWERS.get(task.name, "42"), META)
    return task.score(question, text)


PIECES = ["<answer>", "</answer>", "<think>", "</think>", "(", ")", "[", "{", "}", "^", "**", "9", "٣", "４", "²", "½"]
PIECES += [
    "\\frac{",
    "\\boxed{",
    "\\sqrt",
    "!",
    "\0",
    "\ud800",
    "\u202e",
    "1e999",
    "0x",
    "nan",
    "inf",
    "__import__('os')",
]
PIECES += ["+", "-", "*", "/", "//", "%", ",", ".", " ", "\n", "x", "=", "$", "I cannot", "The river", "四十二", "B"]
HOSTILE_TEXT = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=80)
LONG = {
    "digits": "9" * 10_000_000,
    "unicode digits": "٣" * 5_000_000,
    "brackets": "(" * 10_000_000,
    "tags": "<answer>" * 1_000_000,
    "closed tags": "<answer></answer>" * 500_000,
    "words": "a " * 5_000_000,
    "fractions": "\\frac{" * 1_500_000,
    "nuls": "\0" * 10_000_000,
    "powers": "9**" * 3_000_000,
}


@settings(max_examples=150)
@given(HOSTILE_TEXT)
def test_no_text_makes_a_judge_raise(every, text):
    """math-verify's processes are left out here: each text goes to those judges that decide in this process."""
    for task in every:
        if task.name not in ("derivatives", "math", "math500", "aime2024", "amc2023"):
            for said in (text, f"<answer>{text}</answer>"):
                assert judged(task, said) in (0.0, 1.0)


@settings(max_examples=25)
@given(HOSTILE_TEXT)
def test_no_text_makes_math_verify_raise(every, text):
    symbolic = next(task for task in every if task.name == "math")
    assert judged(symbolic, f"<answer>{text}</answer>") in (0.0, 1.0)


@settings(max_examples=200)
@given(HOSTILE_TEXT)
def test_readers_of_answers_never_raise(text):
    for read in (answer_of, format_ok, plain_number, word_counts, words_of, _vote):
        read(text)


@pytest.mark.parametrize("name", LONG)
def test_ten_megabytes_take_no_time(every, name):
    for text in (LONG[name], f"<think>{LONG[name]}</think><answer>{LONG[name]}</answer>"):
        start = time.process_time()
        for task in every:
            assert judged(task, text) == 0.0
        assert time.process_time() - start < 10.0, name  # 30 tasks; measured below 2 s


def test_every_task_is_here(every):
    from rl.tasks.mix import NAMES

    assert {task.name for task in every} == set(NAMES) - {*PROBLEMS, Code.name}
