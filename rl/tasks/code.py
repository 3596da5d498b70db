"""Small functions to write: named in words or by their values, tried on hidden inputs in the sandbox.

The answer is an expression of x, or a whole function f. A question belongs to the tests by what its function does: one
question in words and another by examples, both of 3 * x + 1, are on the same side.
"""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rl.tasks.base import Prompter, Template, shortage
from rl.tasks.code_config import CodeConfig
from rl.tasks.programs import Tested
from rl.types import Question

HIDDEN = 8
"Cases of a question; none is an example that it shows."
HELD_OUT = 26
"Of 256 values of a function's hash, those that belong to the tests."


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to ask for a function."""

    draw: Callable[[random.Random], tuple[int, ...]]
    "The constants in it."
    text: Callable[..., str]
    "(*constants) -> what f(x) is, in words."
    solution: Callable[..., str]
    "(*constants) -> an expression of x."
    value: Callable[..., Any]
    "(x, *constants) -> f(x), computed here."
    lists: bool = False
    "Whether x is a list of whole numbers; else it is a whole number."
    edge: Callable[..., Any] | None = None
    "(*constants) -> an input that tells it from its neighbours."


def _plus(text: str, b: int) -> str:
    return f"{text}, plus {b}" if b >= 0 else f"{text}, minus {-b}"


def _times(a: int, b: int) -> str:
    return f"{a} * x + {b}" if b >= 0 else f"{a} * x - {-b}"


KINDS = {
    "linear": Kind(
        draw=lambda rng: (rng.randint(2, 20), rng.randint(-20, 20)),
        text=lambda a, b: _plus(f"{a} times x", b),
        solution=_times,
        value=lambda x, a, b: a * x + b,
    ),
    "larger": Kind(
        draw=lambda rng: (rng.randint(2, 5), rng.randint(-20, 20)),
        text=lambda a, b: f"the larger of {a} times x and {b}",
        solution=lambda a, b: f"max({a} * x, {b})",
        value=lambda x, a, b: max(a * x, b),
    ),
    "remainder": Kind(
        draw=lambda rng: (rng.randint(2, 9), rng.randint(0, 20)),
        text=lambda a, b: f"the remainder of x + {b} divided by {a}",
        solution=lambda a, b: f"(x + {b}) % {a}",
        value=lambda x, a, b: (x + b) % a,
    ),
    "sum": Kind(
        draw=lambda rng: (rng.randint(2, 9), rng.randint(-20, 20)),
        text=lambda a, b: _plus(f"{a} times the sum of x", b),
        solution=lambda a, b: _times(a, b).replace("x", "sum(x)"),
        value=lambda x, a, b: a * sum(x) + b,
        lists=True,
    ),
    "above": Kind(
        draw=lambda rng: (rng.randint(-50, 50),),
        text=lambda a: f"how many numbers in x are above {a}",
        solution=lambda a: f"sum(n > {a} for n in x)",
        value=lambda x, a: sum(n > a for n in x),
        lists=True,
        edge=lambda a: [a, a + 1, a + 2],
    ),
}
_PROBES = [*range(-60, 61, 7), *range(-3, 12)]
_LIST_PROBES = [[], [1], [-2, 7], *([n] for n in range(-51, 52)), [5, 5, -9, 30]]


def held_out(kind: Kind, constants: tuple[int, ...]) -> bool:
    """Whether a function is asked for in tests only: about a tenth, by its values."""
    values = [kind.value(x, *constants) for x in (_LIST_PROBES if kind.lists else _PROBES)]
    return hashlib.sha256(json.dumps(values).encode()).digest()[0] < HELD_OUT


class Code(Tested):
    """The task."""

    name = "code"

    def __init__(
        self,
        cfg: CodeConfig | None = None,
        *,
        seed: int = 0,
        template: Prompter = Template.short,
        ready: bool = False,
    ) -> None:
        """ready: whether programs will be run. Raises SandboxError where that cannot be done here."""
        super().__init__(cfg or CodeConfig(), ready=ready)
        self.seed, self.template = seed, template

    def train_question(self, i: int) -> Question:
        """A kind, its constants, and words or examples, at random."""
        rng = random.Random(f"code/{self.seed}/{i}")
        return self._question(f"code/train/{i}", rng, *_draw(rng, held=False))

    def test_questions(self, n: int) -> list[Question]:
        """The first n different ones of those held out."""
        rng, found = random.Random("code/test"), {}
        for _ in range(50 * n + 1000):
            if len(found) == n:
                return list(found.values())
            question = self._question(f"code/test/{len(found)}", rng, *_draw(rng, held=True))
            found.setdefault(question.prompt, question)
        raise shortage(self.name, n, len(found))

    def _question(self, name: str, rng: random.Random, kind: Kind, constants: tuple[int, ...]) -> Question:
        inputs = _inputs(kind, rng)
        if kind.edge:
            inputs[1] = kind.edge(*constants)
        shown = inputs[HIDDEN:] if kind is KINDS["linear"] and rng.random() < 0.5 else []
        if shown:
            values = ", ".join(f"f({x}) = {kind.value(x, *constants)}" for x in sorted(shown))
            text = f"{values}. Write f(x)."
        else:
            text = f"Write f(x): {kind.text(*constants)}."
        if self.template.in_words:
            text += " f is a function in Python. The answer is its expression in x, or its code, and nothing else."
        cases = [{"arguments": [x], "expected": kind.value(x, *constants)} for x in inputs[:HIDDEN]]
        meta = {"function": "f", "parameter": "x", "cases": cases, "language": "en"}
        return Question(name, self.name, self.template.prompt(text), kind.solution(*constants), meta)


def _draw(rng: random.Random, *, held: bool) -> tuple[Kind, tuple[int, ...]]:
    while True:
        kind = KINDS[rng.choice(list(KINDS))]
        constants = kind.draw(rng)
        if held_out(kind, constants) is held:
            return kind, constants


def _inputs(kind: Kind, rng: random.Random) -> list[Any]:
    """Different inputs: HIDDEN, of which the first are edges, and three to be shown."""
    if kind.lists:
        return [[], *([rng.randint(-99, 99) for _ in range(rng.randint(1, 8))] for _ in range(HIDDEN + 2))]
    small = rng.sample(range(1, 10), 3)
    rest = [x for x in range(-99, 100) if x not in small and x != 0]
    return [0, *rng.sample(rest, HIDDEN - 1), *small]
