"""Numbers by hand, algebra by math-verify, and text that wants to run, hang or fill the memory."""

import os
import threading
import time
from fractions import Fraction

import pytest

from rl.tasks.derivatives import Derivatives, written
from rl.tasks.math import GRACE_S, WALL_PER_CPU, MathChecker, bare, numbers_equal, plain_number, shared_checker
from training.data.split import in_test_split


@pytest.fixture(scope="module")
def checker():
    """Started with a first question: its import takes seconds, which no later time should hold."""
    checker = shared_checker()
    assert checker.check("x+1", "1+x")
    return checker


@pytest.mark.parametrize(
    "text, number",
    [
        ("12", 12),
        (" 12. ", 12),
        ("-3", -3),
        ("+3", 3),
        ("007", 7),
        ("27.0", 27),
        ("0.125", Fraction(1, 8)),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        ("1,234,567", 1234567),
        ("$1,234.50", Fraction(2469, 2)),
        (r"\$18", 18),
        ("-$5", -5),
        ("$18$", 18),
        (r"\boxed{18}", 18),
        (r"\(18\)", 18),
        ("x = 18", 18),
        ("50%", 50),
        (r"50\%", 50),
        ("72 clips", 72),
        ("5 miles per hour", 5),
        *[(text, None) for text in ("", "12 dozen", "3 million", "2+2", "41 or 42", "1,23", "1/0", "１２", "١٢", "½")],
        *[(text, None) for text in ("1e3", "0x10", "--3", "12\0", "1_000", "x", "9" * 16, "12:30", "1" * 2000)],
    ],
)
def test_plain_numbers_by_hand(text, number):
    assert plain_number(text) == number


def test_a_decimal_is_what_it_says_and_no_approximation():
    assert numbers_equal("1/4", "0.25") and not numbers_equal("1/3", "0.33")
    assert not numbers_equal("x", "x")  # for numbers only


def test_marks_around_an_answer_are_free():
    assert [bare(text) for text in ("$x$", r"\[x\]", r"\boxed{x}", "$", "$$")] == ["x", "x", "x", "$", ""]


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("x^2-1", "(x-1)(x+1)", True),
        ("6x+2", "2(3x+1)", True),
        ("6x+2", "6x-2", False),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        (r"\frac{\pi}{2}", r"\pi/2", True),
        (r"\frac{1}{2}", "0.5", True),
        ("1024", "2^{10}", True),
        ("3", r"\text{three}", False),
        (r"\text{Monday}", r"\text{Monday}", True),
        ("(1,2)", "(2,1)", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("[1,2)", "[1,2]", False),
        ("42", "41 or 42", False),
        ("42", "", False),
        ("42", "7" * 1001, False),
        # what states the task again is no answer
        ("6x+2", r"\frac{d}{dx}(3x^2+2x)", False),
        ("6x+2", r"\frac{\mathrm{d}}{\mathrm{d}x}(3x^2+2x)", False),
        ("6x+2", "d/dx (3x^2+2x)", False),
        ("5050", r"\sum_{k=1}^{100} k", False),
    ],
)
def test_algebra(checker, gold, answer, right):
    assert checker.check(gold, answer) is right


HOSTILE = {
    "power": "9^{9^{9^{9}}}",
    "factorial": "(10^{8})!",
    "brackets": "(" * 900,
    "fewer brackets": "(" * 15,
    "fractions": r"\frac{" * 150,
    "sum": "+".join(["x^{99}"] * 150),
    "expansion": "(a+b+c+d+e+f)^{400}",
    "matrix": r"\begin{pmatrix}" * 60,
    "python": "__import__('os').system('touch HERE')",
    "python tex": r"\text{__import__('os').system('touch HERE')}",
    "nul": "1\0+1",
    "surrogate": "\ud800",
    "lines": "1\n2\n" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_in_bounded_time(checker, tmp_path, name):
    mark = tmp_path / "ran"
    start = time.monotonic()
    assert checker.check("x^2-42", HOSTILE[name].replace("HERE", str(mark))) is False
    assert time.monotonic() - start < WALL_PER_CPU * checker.limit_s + GRACE_S  # on a busy machine, too
    assert not mark.exists()


def test_a_worker_that_hangs_is_replaced_and_the_others_go_on():
    checker = MathChecker(workers=2, limit_s=1.0)
    try:
        pairs = [
            ("x+1", "1+x"),
            ("5", r"\frac{99999999!}{99999998!}"),
            *[(f"x+{i}", f"{i}+x") for i in range(20)],
            ("x", "y"),
        ]
        assert checker.check_all(pairs) == [True, False, *[True] * 20, False]
        assert checker.timeouts == 1
        assert checker.check(*pairs[1]) is False and checker.timeouts == 1  # remembered
        checker._memory.clear()
        os.killpg(checker._pool[0].process.pid, 9)  # one that dies altogether, as by the kernel's memory killer
        checker._pool[0].process.wait()
        assert checker.check_all(pairs[:1] + pairs[2:]) == [True, *[True] * 20, False]
        pids = [worker.process.pid for worker in checker._pool]
    finally:
        checker.close()
    assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)


def test_threads_may_ask_at_the_same_time(checker):
    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(checker.check(f"x+{i}", f"{i}+x"))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_polynomials_are_written_as_people_do():
    assert written((5, -2, 3)) == "3x^2 - 2x + 5"
    assert written((0, 1)) == "x" and written((0, -1, 0, -4)) == "-4x^3 - x" and written((0, 0)) == "0"


def test_derivatives_are_sympys_and_the_split_holds():
    import sympy

    task = Derivatives()
    held = task.test_questions(50)
    trained = [task.train_question(i) for i in range(150)]
    for question in held + trained:
        text = question.prompt.removeprefix("User: d/dx (").removesuffix(") = ?\nAssistant:")
        x = sympy.Symbol("x")
        value = sympy.Poly(_read(text, x), x)
        assert sympy.expand(value.diff(x).as_expr() - _read(question.answer, x)) == 0
    asked = {q.prompt for q in held}
    assert len(asked) == 50 and not asked & {q.prompt for q in trained}
    assert all(in_test_split(q.prompt[len("User: ") : -len("\nAssistant:")]) for q in held)
    assert [task.train_question(i) for i in (7, 3)] == [trained[7], trained[3]]


def _read(text, x):
    """A polynomial as this test reads it: term by term."""
    total = 0
    for term in text.replace("- ", "+ -").split("+"):
        size, _, power = term.strip().partition("x")
        number = {"": 1, "-": -1}.get(size, None) if "x" in term else int(size)
        number = int(size) if number is None else number
        total += number * (x ** int(power[1:] or 1) if "x" in term else 1)
    return total


def test_derivatives_are_judged_as_algebra(checker):
    task = Derivatives()
    question = next(q for q in (task.train_question(i) for i in range(50)) if q.answer.count(" ") == 4)
    terms = question.answer.replace("- ", "+ -").split(" + ")
    assert task.score(question, f"<answer>{' + '.join(reversed(terms))}</answer>") == 1.0
    assert task.score(question, f"<answer>{question.answer} + 1</answer>") == 0.0
    asked = question.prompt.removeprefix("User: ").removesuffix(" = ?\nAssistant:")
    assert task.score(question, f"<answer>{asked}</answer>") == 0.0
    assert task.score(question, question.answer) == 0.0


def test_a_batch_is_judged_before_it_is_scored(checker, monkeypatch):
    task = Derivatives()
    asked = [task.train_question(i) for i in range(6)]
    said = [(q, f"<think>so</think><answer>{q.answer} + {i % 2}</answer>") for i, q in enumerate(asked)]
    said += [(asked[0], "nothing"), (asked[0], f"<answer>{'9' * 2000}</answer>")]
    task.prepare(said)
    monkeypatch.setattr(checker, "_work", lambda waiting, known: pytest.fail("asked again") if waiting else None)
    assert [task.score(q, text) for q, text in said] == [1.0, 0.0] * 3 + [0.0, 0.0]
