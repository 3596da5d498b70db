"""The countdown task: its questions and split, and its parser against one built on Python's, hostile text included."""

import random
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.tasks.base import R1_ZERO_TEMPLATE, Template
from rl.tasks.countdown import MAX_CHARACTERS, MAX_DEPTH, Countdown, score_expression
from tests.arithmetic import numbers_in, value_of
from tests.training.test_countdown_data import HELD_OUT
from training.data.countdown import reachable

SMALL = [3, 5, 8]


def expected_score(answer: str, numbers: list[int], target: int | Fraction) -> float:
    """Our rule, on Python's parser."""
    depth = max((answer[:i].count("(") - answer[:i].count(")") for i in range(len(answer) + 1)), default=0)
    if len(answer) > MAX_CHARACTERS or depth > MAX_DEPTH:
        return 0.0
    try:
        return float(sorted(numbers_in(answer)) == sorted(numbers) and value_of(answer) == target)
    except (SyntaxError, ZeroDivisionError):
        return 0.0


@pytest.mark.parametrize(
    "answer, target",
    [
        ("(3+5)*8", 64),
        ("8*(5+3)", 64),
        ("3+5*8", 43),
        ("8 - 5 - 3", 0),
        ("8-(5-3)", 6),
        (" ( ( 3 ) + 5 )*8 ", 64),
        ("8/(5-3)", 4),
        ("3*5/8", Fraction(15, 8)),
        ("5-8/3", Fraction(7, 3)),
        ("3-5*8", -37),
        ("3+\n5+\t8", 16),
    ],
)
def test_right_expressions(answer, target):
    assert score_expression(answer, SMALL, target) == 1.0
    assert score_expression(answer, SMALL, target + 1) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *["", " ", "64", "()", "(3+5)", "3+5*8+", "(3+5)*8=64", "(3+5)*8)", "((3+5)*8", "(3+5)8", "3 5 8", "358"],
        *["(3+5)*8*1", "(3+5)*8+0", "(3+3)*8", "64+0*(3+5+8)", "(3+5)*8 yes", "(3,5)*8", "(3+5)×8", "[3+5]*8"],
        *["+(3+5)*8", "-(3+5)*-8", "(3+5)*+8", "(3+5)*08", "(03+5)*8", "(3+5)*8.0", "(3+5)*8e0", "(3+5)*0x8"],
        *["(3+5)**8", "(3+5)//8", "8//5*3", "(3+5)%8", "3+5<<8", "(3+5)*8#", "(3_+5)*8", "x", "3+5+8;64", "３+５*８"],
        *["(٣+٥)*٨", "(3+5)*8\0", "\0", "(3+5)*\u00b2", "8/(5-5)*3", "8/(3-3)", "int('64')", "__import__('os')"],
        *["9**9**9", "9**9**9**9", "3**5**8", "(3+5)*8" + " " * MAX_CHARACTERS + "1", "\ud800", "(3+5)*8\u2028+0"],
    ],
)
def test_what_is_no_right_expression_scores_nothing(answer):
    assert score_expression(answer, SMALL, 64) == 0.0


def test_division_by_zero_scores_nothing_with_the_right_numbers():
    assert score_expression("8/(5-5)", [5, 5, 8], 10) == 0.0
    assert score_expression("(5-5)/8", [5, 5, 8], 0) == 1.0


def test_length_and_depth_are_bounded():
    def deep(n: int) -> str:
        return "(" * n + "3+5+8" + ")" * n

    assert score_expression(deep(MAX_DEPTH), SMALL, 16) == 1.0
    assert score_expression(deep(MAX_DEPTH + 1), SMALL, 16) == 0.0
    apart = "(" * 10 + "3" + ")" * 10 + "+5+" + "(" * 10 + "8" + ")" * 10  # brackets that are closed no longer count
    assert score_expression(apart, SMALL, 16) == 1.0
    assert score_expression("3+5+8".ljust(MAX_CHARACTERS), SMALL, 16) == 1.0
    assert score_expression("3+5+8".ljust(MAX_CHARACTERS + 1), SMALL, 16) == 0.0


@st.composite
def expressions(draw) -> str:
    """A valid expression of one to five numbers, with spaces and needless brackets here and there."""

    def write(leaves: list[int]) -> str:
        if len(leaves) == 1:
            text = str(leaves[0])
        else:
            cut = draw(st.integers(1, len(leaves) - 1))
            space = draw(st.sampled_from(["", "", " "]))
            text = write(leaves[:cut]) + space + draw(st.sampled_from("+-*/")) + space + write(leaves[cut:])
        return f"({text})" if draw(st.integers(0, 2)) == 0 else text

    return write(draw(st.lists(st.integers(0, 120), min_size=1, max_size=5)))


@settings(max_examples=400, deadline=None)
@given(expressions(), st.randoms(use_true_random=False))
def test_valid_expressions_score_as_exact_arithmetic_has_it(expression, rng):
    assume(len(expression) <= MAX_CHARACTERS)
    numbers = list(numbers_in(expression))
    rng.shuffle(numbers)
    try:
        value = value_of(expression)
    except ZeroDivisionError:
        assert all(score_expression(expression, numbers, target) == 0.0 for target in (0, 1, 10))
        return
    assert score_expression(expression, numbers, value) == 1.0
    assert score_expression(expression, numbers, value + Fraction(1, 10**9)) == 0.0
    assert score_expression(expression, [*numbers, 1], value) == 0.0
    assert score_expression(expression, numbers[1:], value) == 0.0
    assert score_expression(expression, [numbers[0] + 1, *numbers[1:]], value) == 0.0


@settings(max_examples=1000, deadline=None)
@given(answer=st.text("0358()+-*/ ", max_size=14), target=st.sampled_from([0, 3, 8, 11, 15, 40]))
@example(answer="3+5", target=8)
@example(answer="00+8", target=8)
@example(answer="3(5)", target=15)
@example(answer="0*8+3", target=3)
def test_random_strings_score_as_with_pythons_parser(answer, target):
    numbers = [int(c) for c in answer if c.isdigit()] or [8]  # as if each digit were a number: often they are
    assert score_expression(answer, numbers, target) == expected_score(answer, numbers, target)
    try:
        value = value_of(answer)
    except (SyntaxError, ZeroDivisionError):
        return
    numbers = list(numbers_in(answer))
    assert score_expression(answer, numbers, value) == float(max(numbers) < 1000)  # three digits are the most


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("358()+-*/ \0٣²_.e", max_size=80)))
def test_no_text_raises(text):
    question = Countdown().train_question(0)
    assert score_expression(text, SMALL, 64) in (0.0, 1.0)
    assert Countdown().score(question, f"<answer>{text}</answer>") in (0.0, 1.0)
    assert Countdown().score(question, text) == 0.0 or "<answer>" in text


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 1_000_000,
        "(" * 500_000 + "3" + ")" * 500_000,
        "9" * 1_000_000,
        "9**9**9**9**9",
        "9*" * 500_000 + "9",
        "1" + "+1" * 500_000,
        " " * 1_000_000 + "(3+5)*8",
        "\0" * 1_000_000,
        "٣" * 1_000_000,
        "-" * 1_000_000 + "8",
        "(" * 64,
        "1/" * 31 + "1",
    ],
    ids=range(12),
)
def test_hostile_answers_are_judged_at_once(answer):
    start = time.process_time()
    assert score_expression(answer, SMALL, 64) == 0.0
    question = Countdown().train_question(0)
    assert Countdown().score(question, f"<think>{answer}</think><answer>{answer}</answer>") == 0.0
    assert time.process_time() - start < 1


def test_many_answers_are_judged_right_and_their_rate_is_told(record_property):
    """Run with -s to see it; a run of RL judges some thousand a minute."""
    rng = random.Random(0)
    questions = [Countdown().train_question(i) for i in range(2000)]
    texts = [f"<think>x</think><answer>{q.answer}</answer>" for q in questions]
    start = time.perf_counter()
    right = [Countdown().score(question, text) for question, text in zip(questions, texts, strict=True)]
    rate = len(texts) / (time.perf_counter() - start)
    record_property("checks_per_s", round(rate))
    print(f"countdown: {rate:,.0f} answers judged a second")
    assert right == [1.0] * len(texts)
    for question, other in zip(questions, rng.sample(questions, len(questions)), strict=True):
        expected = expected_score(other.answer, question.meta["numbers"], question.meta["target"])
        assert Countdown().score(question, f"<answer>{other.answer}</answer>") == expected


def test_training_questions_are_over_allowed_sets_and_reachable_targets():
    held = set(HELD_OUT)
    asked: Counter[tuple[int, ...]] = Counter()
    for seed in (0, 1):
        task = Countdown(seed=seed)
        for i in range(10_000):
            question = task.train_question(i)
            numbers, target = tuple(question.meta["numbers"]), question.meta["target"]
            assert tuple(sorted(numbers)) not in held
            assert target in reachable(numbers)
            assert question.prompt == f"User: Make {target} from {numbers[0]}, {numbers[1]}, {numbers[2]}.\nAssistant:"
            asked[tuple(sorted(numbers))] += 1
    assert len(asked) == 192


def test_targets_are_asked_uniformly_over_what_can_be_reached():
    """Rank of the target among the reachable ones, as a share: its mean is a half, its deciles are equal."""
    ranks = []
    for i in range(10_000):
        meta = Countdown().train_question(i).meta
        targets = reachable(tuple(meta["numbers"]))
        ranks.append((targets.index(meta["target"]) + random.Random(i).random()) / len(targets))
    deciles = Counter(int(10 * rank) for rank in ranks)
    assert sum((count - 1000) ** 2 / 1000 for count in deciles.values()) < 33.7  # chi-square, 9 degrees, 1 in 10,000


def test_training_question_depends_on_seed_and_number_only():
    first, other = Countdown(seed=4), Countdown(seed=5)
    forwards = [first.train_question(i) for i in range(50)]
    assert forwards == [Countdown(seed=4).train_question(i) for i in reversed(range(50))][::-1]
    assert sum(a.prompt == b.prompt for a, b in zip(forwards, map(other.train_question, range(50)), strict=True)) < 5
    assert len({q.id for q in forwards}) == 50


def test_test_questions_ask_every_held_out_question_before_any_twice():
    asked = Countdown().test_questions(600)
    sets = [(tuple(sorted(q.meta["numbers"])), q.meta["target"]) for q in asked]
    expected = {(numbers, target) for numbers in HELD_OUT for target in reachable(numbers)}
    assert len(expected) == 191 and set(sets[:191]) == expected
    assert len({q.prompt for q in asked}) == len({q.id for q in asked}) == 600
    assert max(Counter(sets[:382]).values()) == 2
    assert len({numbers for numbers, _ in sets[:50]}) > 12  # a few of them ask over most sets
    assert asked[:50] == Countdown(seed=9).test_questions(50) == Countdown().test_questions(50)


def test_more_test_questions_than_there_are_is_an_error_that_says_how_many():
    there = sum(len(set(_orders(numbers))) * len(reachable(numbers)) for numbers in HELD_OUT)
    assert len({q.prompt for q in Countdown().test_questions(there)}) == there
    with pytest.raises(ConfigError, match=f"evaluate.questions={there + 1}.*{there} held-out.*at most {there}"):
        Countdown().test_questions(there + 1)


def _orders(numbers: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    a, b, c = numbers
    return [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]


def test_gold_answers_are_right_and_other_questions_reject_them():
    task = Countdown()
    questions = task.test_questions(191) + [task.train_question(i) for i in range(500)]
    for question, other in zip(questions, questions[1:], strict=False):
        text = f"<answer>{question.answer}</answer>"
        assert value_of(question.answer) == question.meta["target"]
        assert task.score(question, text) == 1.0
        same = sorted(question.meta["numbers"]) == sorted(other.meta["numbers"])
        assert task.score(other, text) == float(same and question.meta["target"] == other.meta["target"])
        assert task.score(question, question.answer) == task.score(question, "") == 0.0


def test_templates():
    assert Template.short.prompt("Make {x}.") == "User: Make {x}.\nAssistant:"
    prompt = Countdown(template=Template.r1_zero).test_questions(1)[0].prompt
    before, after = R1_ZERO_TEMPLATE.split("{question}")
    assert prompt.startswith(before) and prompt.endswith(after)
    assert "User: Make" in prompt and "{" not in prompt
