"""The rules of aha moments on answers judged by hand, and on whatever a model may write."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.aha import judge, number
from rl.reflection import reflects


@pytest.mark.parametrize(
    "text, right, met",
    [
        # Tiny R1's own: the check is of what follows the word, and the answer is that.
        ("<think>\n5*4=20: -4=16 yes\ncheck (5*4)-4=16 yes\n</think><answer>(5*4)-4</answer>", True, "reflects"),
        ("<think>check 4*(6-1)=20 yes</think><answer>(6 - 1) * 4</answer>", True, "reflects"),  # the same number
        ("<think>check (8-1)*7=49 high wait\nso</think><answer>(1*7)+8</answer>", False, "reflects changed"),
        ("<think>检查 (6+10)+2=18大等等: -2=14对</think><answer>(6+10)-2</answer>", True, "reflects changed turned"),
        # Of larger models.
        ("<think>So the answer is 12. Wait, 3*5=15.</think><answer>15</answer>", True, "reflects changed turned"),
        ("<think>So the answer is 12. No, it is 15.</think><answer>15</answer>", True, "turned"),
        ("<think>So the answer is 15. Wait, is it? Yes.</think><answer>15</answer>", True, "reflects"),
        ("<think>Wait, what is asked?</think><answer>15</answer>", True, "reflects"),  # nothing was looked at
        ("<think>\\boxed{7}, let me recheck</think><answer>8</answer>", False, "reflects changed"),
        # Nothing to hold a result against, and words outside of the thinking.
        ("<think>check 3+5=8 low wait", False, "reflects"),
        ("wait <think>3+5=8</think><answer>8</answer> wait", True, ""),
        ("check 3+5=8 <answer>9</answer>", True, ""),
    ],
)
def test_answers_judged_by_hand(text: str, right: bool, met: str) -> None:
    aha = judge(text, right)
    assert [rule for rule in ("reflects", "changed", "turned") if getattr(aha, rule)] == met.split()
    assert aha.reflects == reflects(text)


def test_places_are_those_of_the_words() -> None:
    text = "<think>check 3+5=8 low wait</think><answer>3*5</answer>"
    aha = judge(text, True)
    assert [text[a:b] for a, b in aha.checks] == ["check", "wait"]
    assert text[slice(*aha.before)].strip() == "3+5=8"


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "check ",
    "wait ",
    "3+5=8",
    "(2*3)",
    "=",
    "等等",
    "\n",
    "x",
    "-",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.booleans())
def test_rules_hang_together_whatever_is_written(text: str, right: bool) -> None:
    aha = judge(text, right)
    assert aha.reflects or not aha.changed
    assert right or not aha.turned
    assert (aha.before is not None) == (aha.changed or aha.turned)
    for start, end in [*aha.checks, *([aha.before] if aha.before else [])]:
        assert 0 <= start < end <= len(text)


@settings(max_examples=150, deadline=None)
@given(st.text("0123456789+-*/(). ", max_size=30))
def test_arithmetic_is_pythons_or_none(expression: str) -> None:
    value = number(expression)
    if value is not None:
        import re

        exact = re.sub(r"\d+(?:\.\d+)?", lambda m: f"F('{m[0]}')", expression)
        from fractions import Fraction

        assert value == eval(exact, {"F": Fraction, "__builtins__": {}})  # our own characters, from the strategy above


@pytest.mark.parametrize(
    "text", ["<think>" + "check " * 200_000, "<think>" + "1+" * 500_000 + "=", "<think>" + "(" * 10**6]
)
def test_a_megabyte_costs_no_more_than_what_is_read_of_it(text: str) -> None:
    start = time.process_time()
    judge(text + "</think><answer>1</answer>", True)
    assert time.process_time() - start < 5  # a hang is minutes
