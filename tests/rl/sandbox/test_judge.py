"""Verdicts: hand-made programs against hand-made cases; comparison by hand-made pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.sandbox.judge import Case, Submission, judge, same_output, same_value
from rl.sandbox.runner import Ending

SUM = [Case(stdin=f"{a} {b}\n", expected=f"{a + b}\n") for a, b in ((1, 2), (5, 5), (-3, 1))]
SQUARE = [Case(arguments=[x], expected=x * x) for x in (0, 1, 2, -3)]


def test_verdicts_tell_share_and_whether_all_pass(sandbox):
    right, half, wrong, broken, loop = judge(
        sandbox,
        [
            Submission("print(sum(map(int, input().split())))", SUM),
            Submission("a, b = map(int, input().split())\nprint(a + b if a > 0 else 0)", SUM),
            Submission("print('3 10 -2')", SUM),
            Submission("print(", SUM),
            Submission("while True: pass", SUM),
        ],
    )
    assert (right.passed, right.share, right.all_passed) == ((True, True, True), 1.0, True)
    assert half.passed == (True, True, False) and not half.all_passed
    assert wrong.share == 0.0 and wrong.compiled and wrong.ending is Ending.ok
    assert (broken.compiled, broken.passed, broken.ending) == (False, (False,) * 3, Ending.syntax)
    assert (loop.compiled, loop.passed) == (True, (False,) * 3) and loop.ending in (Ending.cpu, Ending.wall)
    assert half.parts() == {"compiled": 1.0, "tests": 2 / 3, "all_tests": 0.0}


def test_functions_are_judged_call_by_call(sandbox):
    sources = ["def f(x): return x * x", "def f(x): return x + x", "def f(x): return 1 // x and x * x", "g = 1"]
    verdicts = judge(sandbox, [Submission(source, SQUARE, "f") for source in sources])
    assert [verdict.passed for verdict in verdicts] == [
        (True, True, True, True),
        (True, False, True, False),
        (False, True, False, True),
        (False, False, False, False),
    ]
    assert [v.ending for v in verdicts] == [Ending.ok, Ending.ok, Ending.ok, Ending.error]


def test_an_output_is_wrong_where_the_program_fails_after_it(sandbox):
    assert judge(sandbox, [Submission("print(3); 1 / 0", SUM[:1])])[0].passed == (False,)


def test_nothing_expected_is_in_the_sandbox(sandbox):
    """The program sends out all that it is given: its input is in it, the expected text is not."""
    source = "import gc\nprint([str(o) for o in gc.get_objects() if isinstance(o, dict) and 'stdin' in o])"
    program = Submission(source, [Case(stdin="the input", expected="the expected")])
    from rl.sandbox.judge import _programs

    run = sandbox.run(_programs(program)[0])
    assert "the input" in run.stdout and "the expected" not in run.stdout


@pytest.mark.parametrize(
    ("text", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        ("1  2 \n\n", "1 2\n", True),
        ("1\n2", "1 2", False),
        ("", "", True),
        ("", "0", False),
        ("1 2 3", "1 2", False),
        ("0.3333333333", "0.33333333333333", True),
        ("0.3334", "0.3333", False),
        ("1.0", "1", False),
        ("1", "1.0", True),
        ("yes", "Yes", False),
        ("nan", "nan.", False),
        ("1e400", "1.5", False),
        ("٣", "3", False),
    ],
)
def test_outputs_compare_by_token_and_line(text, expected, same):
    assert same_output(text, expected) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (1, 1, True),
        (1.0, 1, True),
        (True, 1, False),
        (1, True, False),
        (0.1 + 0.2, 0.3, True),
        (float("nan"), float("nan"), False),
        (10**400, 1.5, False),
        ([1, [2]], [1, [2]], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"b": 1}, False),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
    ],
)
def test_values_compare_by_type_and_worth(value, expected, same):
    assert same_value(value, expected) is same


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(json_values, json_values)
def test_comparison_is_reflexive_and_never_raises(value, other):
    assert same_value(value, value)
    assert same_value(value, other) in (True, False)
    assert same_output(str(value), str(other)) in (True, False)
