"""Kimi's quorum on hand-made solutions, some of them wrong; the generators' shapes by hand."""

import pytest

from infra.errors import ConfigError
from rl.sandbox.cases import CasesConfig, Draw, filter_problem, generate

RIGHT = "n = int(input())\nprint(n * (n + 1) // 2)"
SAME = "n = int(input())\nprint(sum(range(n + 1)), end='')"
WRONG = "n = int(input())\nprint(n * n // 2)"
WRONG_ABOVE_5 = "n = int(input())\nprint(n * (n + 1) // 2 if n <= 5 else 0)"
BROKEN = "print("
INPUTS = ["1\n", "4\n", "10\n"]


def right(n: int) -> list[str]:
    return [RIGHT] * (n - n // 2) + [SAME] * (n // 2)


@pytest.mark.parametrize(
    ("solutions", "agreed", "expected", "passed", "kept"),
    [
        (right(10), [10, 10, 10], ["1", "10", "55"], 10, True),
        (right(9) + [WRONG], [9, 9, 9], ["1", "10", "55"], 9, True),
        (right(8) + [WRONG, BROKEN], [8, 8, 8], ["1", "10", "55"], 8, False),
        (right(6) + [WRONG] * 3 + [BROKEN], [6, 6, 6], [], 0, False),
        (right(6) + [WRONG_ABOVE_5] * 4, [10, 10, 6], ["1", "10"], 10, True),
        (right(7) + [WRONG_ABOVE_5] * 3, [10, 10, 7], ["1", "10", "55"], 7, False),
        (right(9), [0, 0, 0], [], 0, False),
    ],
)
def test_seven_of_ten_make_a_case_and_nine_of_ten_keep_the_problem(sandbox, solutions, agreed, expected, passed, kept):
    found = filter_problem(sandbox, INPUTS, solutions)
    assert found.agreed == agreed
    assert [case.expected.strip() for case in found.cases] == expected
    assert [case.stdin for case in found.cases] == [i for i, a in zip(INPUTS, agreed, strict=True) if a >= 7]
    assert (found.passed, found.kept) == (passed, kept)


def test_functions_vote_by_value(sandbox):
    solutions = ["def f(a): return sorted(a)"] * 8 + ["def f(a): return a"] * 2
    found = filter_problem(sandbox, [[[2, 1]], [[3, 3]], [[1, "x"]]], solutions, function="f")
    assert found.agreed == [8, 10, 2]
    assert [(case.arguments, case.expected) for case in found.cases] == [([[2, 1]], [1, 2]), ([[3, 3]], [3, 3])]
    assert (found.passed, found.kept) == (8, False)


def test_of_many_solutions_ten_are_drawn(sandbox):
    found = filter_problem(sandbox, INPUTS, right(30), CasesConfig(solutions=10))
    assert found.agreed == [10, 10, 10] and found.kept


def test_inputs_are_different_and_begin_with_the_extremes():
    made = generate(lambda d: f"{d.integer(1, 50)} {d.integer(-5, 5)}", 20)
    assert len(set(made)) == len(made) == 20 and made[:2] == ["1 -5", "50 5"]
    assert made == generate(lambda d: f"{d.integer(1, 50)} {d.integer(-5, 5)}", 20)
    assert made != generate(lambda d: f"{d.integer(1, 50)} {d.integer(-5, 5)}", 20, seed=1)
    assert len(generate(lambda d: str(d.integer(1, 3)), 50)) == 3


@pytest.mark.parametrize("extreme", ["", "low", "high"])
@pytest.mark.parametrize("seed", range(5))
def test_shapes_are_what_they_are_called(seed, extreme):
    draw = Draw(seed, extreme)
    assert sorted(draw.permutation(7)) == list(range(1, 8))
    assert len(draw.word(9, "ab")) == 9 and set(draw.word(9, "ab")) <= {"a", "b"}
    for edges in (draw.tree(8), draw.graph(8, 12), draw.graph(8, 1000)):
        assert len({frozenset(edge) for edge in edges}) == len(edges) and all(a != b for a, b in edges)
        reached, new = {1}, True
        while new:
            new = {b for edge in edges for a, b in (edge, edge[::-1]) if a in reached} - reached
            reached |= new
        assert reached == set(range(1, 9))
    assert len(Draw(seed, extreme).tree(8)) == 7 and len(draw.graph(8, 12)) == 12 and len(draw.graph(8, 1000)) == 28


def test_extreme_trees_are_a_star_and_a_path():
    assert Draw(0, "low").tree(4) == [(1, 2), (1, 3), (1, 4)]
    assert Draw(0, "high").tree(4) == [(1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("values", [{"inputs": 0}, {"solutions": 1}, {"agree": 5}, {"agree": 11}, {"passing": 0}])
def test_impossible_quorums_are_refused(values):
    with pytest.raises(ConfigError, match=f"cases.{next(iter(values))}="):
        CasesConfig(**values)
