"""The countdown question: make a target from three numbers with + - *, each number used once.

Corpus and RL task share what is here: which questions there are, which are held out, how a question is worded, and the
orderly search. Numbers are 1 to 10, targets 10 to 100. A target is one of the values that the numbers reach, their
plain sum left out: were it in, guessing the sum would often be right and thinking would not pay.
"""

import hashlib
from functools import cache
from itertools import combinations_with_replacement, product
from typing import NamedTuple

SHORT_TEMPLATE = "User: {question}\nAssistant:"
CHINESE_TEMPLATE = "用户：{question}\n助手："

Numbers = tuple[int, int, int]


class Step(NamedTuple):
    """One value of the search."""

    text: str
    "How the search writes it behind the first operation, as in `*8=64`."
    value: int
    expression: str
    "The whole of it, as in `(3+5)*8`."


class Line(NamedTuple):
    """One line of the search: a first operation, and what the third number makes of it."""

    head: str
    "As in `3+5=8:`."
    steps: tuple[Step, ...]
    "By + - *, in this order."


@cache
def search(numbers: Numbers) -> tuple[Line, ...]:
    """The nine lines of the orderly search.

    First operations are taken in a fixed order: pairs (a, b), (a, c), (b, c) as the question gives the numbers, each
    with +, - (larger minus smaller) and *. Each result then goes with the third number by +, - and *, as written: a
    difference may be negative. The search is complete: a target that needs `third - result` is at least 10, so it
    takes the third number to be 10 and the result 0, where `result + third` is the same (a test asserts it by brute
    force over all expressions).

    search((3, 5, 8))[0] reads `3+5=8:` with `+8=16`, `-8=0`, `*8=64`.
    """
    a, b, c = numbers
    lines = []
    for x, y, z in ((a, b, c), (a, c, b), (b, c, a)):
        large, small = max(x, y), min(x, y)
        for first, value in ((f"{x}+{y}", x + y), (f"{large}-{small}", large - small), (f"{x}*{y}", x * y)):
            results = (("+", value + z), ("-", value - z), ("*", value * z))
            steps = tuple(Step(f"{op}{z}={result}", result, f"({first}){op}{z}") for op, result in results)
            lines.append(Line(f"{first}={value}:", steps))
    return tuple(lines)


@cache
def reachable(numbers: Numbers) -> tuple[int, ...]:
    """Targets that may be asked of these numbers, rising: all reached values from 10 to 100 but the plain sum."""
    values = {step.value for line in search(numbers) for step in line.steps}
    return tuple(sorted(v for v in values if 10 <= v <= 100 and v != sum(numbers)))


@cache
def held_out(numbers: Numbers) -> bool:
    """Whether these numbers, in any order, are kept from corpus and RL and asked in evaluation only: about a tenth."""
    name = ",".join(map(str, sorted(numbers)))
    return hashlib.sha256(name.encode()).digest()[0] < 26


@cache
def number_sets(*, held: bool) -> tuple[Numbers, ...]:
    """Sets (rising numbers) of which something can be asked: the held-out ones, or all others."""
    sets = combinations_with_replacement(range(1, 11), 3)
    return tuple(s for s in sets if reachable(s) and held_out(s) is held)


@cache
def orders(*, held: bool) -> tuple[Numbers, ...]:
    """The same with every order of the numbers; drawing from it is drawing three numbers and shuffling them."""
    allowed = set(number_sets(held=held))
    return tuple(t for t in product(range(1, 11), repeat=3) if tuple(sorted(t)) in allowed)


def count_questions(*, held: bool) -> tuple[int, int]:
    """(number sets, questions = set and target) of one side of the split."""
    sets = number_sets(held=held)
    return len(sets), sum(len(reachable(s)) for s in sets)


def question_text(numbers: Numbers, target: int) -> str:
    """`Make 19 from 3, 5, 8.`"""
    return f"Make {target} from {numbers[0]}, {numbers[1]}, {numbers[2]}."


def chinese_question_text(numbers: Numbers, target: int) -> str:
    """The same in Chinese."""
    return f"用 {numbers[0]}, {numbers[1]}, {numbers[2]} 算出 {target}。"
