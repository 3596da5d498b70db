"""Countdown's questions against brute force over all expressions, and the split, which a released base relies on."""

from itertools import combinations_with_replacement, permutations, product

import pytest

from tests.arithmetic import numbers_in, value_of
from training.data.countdown import (
    chinese_question_text,
    count_questions,
    held_out,
    number_sets,
    orders,
    question_text,
    reachable,
    search,
)

ALL_SETS = list(combinations_with_replacement(range(1, 11), 3))

# Written down, not computed: a changed split would leak test questions into a base that is trained already.
HELD_OUT = [
    *[(1, 2, 10), (1, 5, 5), (1, 5, 8), (1, 6, 9), (1, 7, 8), (2, 6, 10), (2, 7, 9)],
    *[(3, 4, 4), (3, 6, 10), (3, 7, 9), (4, 4, 5), (4, 5, 6), (4, 6, 10), (4, 7, 7)],
    *[(5, 7, 8), (5, 7, 9), (5, 7, 10), (5, 10, 10), (6, 6, 10), (6, 8, 8), (7, 8, 10)],
]


def brute_force(numbers: tuple[int, ...]) -> set[int]:
    """Values of all expressions of these numbers with + - *: any order, any brackets, each number once."""
    values = set()
    ops = (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y)
    for (x, y, z), p, q in product(permutations(numbers), ops, ops):
        values |= {q(p(x, y), z), p(x, q(y, z))}
    return values


def test_targets_are_what_brute_force_reaches_without_the_plain_sum():
    for numbers in ALL_SETS:
        expected = sorted(v for v in brute_force(numbers) if 10 <= v <= 100 and v != sum(numbers))
        assert list(reachable(numbers)) == expected, numbers


def test_targets_do_not_depend_on_the_order_of_the_numbers():
    for numbers in product(range(1, 11), repeat=3):
        assert reachable(numbers) == reachable(tuple(sorted(numbers)))


def test_search_writes_what_it_computes():
    for numbers in product(range(1, 11), repeat=3):
        lines = search(numbers)
        assert [len(line.steps) for line in lines] == [3] * 9
        for line in lines:
            first, result = line.head.removesuffix(":").split("=")
            assert value_of(first) == int(result) >= 0
            for op, step in zip("+-*", line.steps, strict=True):
                operation, value = step.text.split("=")
                assert operation[0] == op
                assert step.expression == f"({first}){operation}"
                assert int(value) == step.value == value_of(step.expression)
                assert sorted(numbers_in(step.expression)) == sorted(numbers)


def test_search_by_hand():
    written = [line.head + " " + " ".join(step.text for step in line.steps) for line in search((3, 8, 5))]
    assert written == [
        "3+8=11: +5=16 -5=6 *5=55",
        "8-3=5: +5=10 -5=0 *5=25",
        "3*8=24: +5=29 -5=19 *5=120",
        "3+5=8: +8=16 -8=0 *8=64",
        "5-3=2: +8=10 -8=-6 *8=16",
        "3*5=15: +8=23 -8=7 *8=120",
        "8+5=13: +3=16 -3=10 *3=39",
        "8-5=3: +3=6 -3=0 *3=9",
        "8*5=40: +3=43 -3=37 *3=120",
    ]
    assert reachable((3, 8, 5)) == (10, 19, 23, 25, 29, 37, 39, 43, 55, 64)


def test_held_out_sets_are_the_ones_that_the_released_base_has_never_seen():
    assert list(number_sets(held=True)) == HELD_OUT
    assert count_questions(held=True) == (21, 191)
    assert count_questions(held=False) == (192, 1456)


@pytest.mark.parametrize("held", [True, False])
def test_orders_are_all_orders_of_the_sets_of_their_side(held):
    expected = sorted({order for numbers in number_sets(held=held) for order in permutations(numbers)})
    assert list(orders(held=held)) == expected
    assert all(held_out(order) is held for order in expected)


def test_every_set_of_which_something_can_be_asked_is_on_one_side():
    both = number_sets(held=True) + number_sets(held=False)
    assert len(set(both)) == len(both)
    assert set(ALL_SETS) - set(both) == {s for s in ALL_SETS if not reachable(s)}


def test_questions_read_as_people_write_them():
    assert question_text((3, 5, 8), 64) == "Make 64 from 3, 5, 8."
    assert chinese_question_text((10, 1, 8), 18) == "用 10, 1, 8 算出 18。"
