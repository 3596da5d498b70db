"""Test cases made for problems that have none (K §2.3.5): generated inputs, expected outputs by a quorum of solutions.

Kimi's numbers: an input becomes a case where at least 7 of 10 known solutions agree on its output; the problem is kept
where at least 9 of 10 solutions pass all of its cases. All of them run in the sandbox.

In K §2.3.5 a model writes each problem's generator on top of CYaRon. Such a program is run in the sandbox, too; for
generators of one's own there is Draw, with what those use most (numbers, lists, permutations, words, trees, graphs).
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError
from rl.sandbox.judge import Case, Submission, judge
from rl.sandbox.runner import Ending, Program, Run, Sandbox


@dataclass(kw_only=True, slots=True)
class CasesConfig:
    """The quorum (K §2.3.5)."""

    inputs: int = 50
    "Inputs generated for a problem."
    solutions: int = 10
    "Known solutions that are run, drawn from all there are; a problem with fewer is not kept."
    agree: int = 7
    "Solutions that have to agree on an output for it to be the expected one."
    passing: int = 9
    "Solutions that have to pass all cases for the problem to be kept."

    def __post_init__(self) -> None:
        if self.inputs < 1:
            raise ConfigError("cases.inputs", self.inputs, "there would be no case", "set 50")
        if self.solutions < 2:
            raise ConfigError("cases.solutions", self.solutions, "one alone agrees with itself", "set 10")
        if not self.solutions / 2 < self.agree <= self.solutions:
            raise ConfigError(
                "cases.agree", self.agree, f"is no majority of cases.solutions={self.solutions}", "set 7 of 10"
            )
        if not 0 < self.passing <= self.solutions:
            raise ConfigError("cases.passing", self.passing, f"is not from 1 to {self.solutions}", "set 9 of 10")


class Draw:
    """Draws the parts of one input. `extreme` says where in its ranges: "low" and "high" take the ends."""

    def __init__(self, seed: int | str, extreme: str = "") -> None:
        self.rng, self.extreme = random.Random(seed), extreme

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        ends = {"low": low, "high": high}
        return ends[self.extreme] if self.extreme else self.rng.randint(low, high)

    def integers(self, count: int, low: int, high: int) -> list[int]:
        """A list; an extreme one holds the same number throughout."""
        return [self.integer(low, high) for _ in range(count)]

    def permutation(self, n: int) -> list[int]:
        """1 to n, shuffled; extremes are sorted."""
        numbers = list(range(1, n + 1))
        if not self.extreme:
            self.rng.shuffle(numbers)
        return numbers if self.extreme != "high" else numbers[::-1]

    def word(self, length: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
        """Letters of the alphabet; an extreme one repeats its first or last."""
        return "".join(alphabet[i] for i in self.integers(length, 0, len(alphabet) - 1))

    def tree(self, n: int) -> list[tuple[int, int]]:
        """n - 1 edges that join 1 to n; low is a star, high is a path."""
        return [(self.integer(1, child - 1), child) for child in range(2, n + 1)]

    def graph(self, n: int, edges: int) -> list[tuple[int, int]]:
        """Connected, without loops or double edges; as many edges as there can be, at most."""
        chosen = self.tree(n)
        left = [(a, b) for a in range(1, n + 1) for b in range(a + 1, n + 1) if (a, b) not in set(chosen)]
        self.rng.shuffle(left)
        return chosen + left[: max(0, edges - len(chosen))]


Generator = Callable[[Draw], str | list[Any]]
"What a script reads, or a function's arguments."


def generate(generator: Generator, count: int, seed: int = 0) -> list[str | list[Any]]:
    """`count` different inputs, or as many as there are: the smallest, the largest, then random ones."""
    found: dict[str, str | list[Any]] = {}
    for i in range(10 * count):
        made = generator(Draw(f"{seed}/{i}", {0: "low", 1: "high"}.get(i, "")))
        found.setdefault(json.dumps(made), made)
        if len(found) == count:
            break
    return list(found.values())


def generate_by_program(sandbox: Sandbox, source: str, count: int, seed: int = 0) -> list[str]:
    """Inputs that a generator prints: a program, which a model may have written, given a number on its stdin each time.

    Different ones, `count` at most; runs that fail or print nothing give none.
    """
    runs = sandbox.run_all([Program(source, stdin=f"{seed + i}\n") for i in range(count)])
    return list(dict.fromkeys(run.stdout for run in runs if run.ending is Ending.ok and run.stdout.strip()))


@dataclass(frozen=True, slots=True)
class Filtered:
    """A problem after the quorum."""

    cases: list[Case]
    "Inputs on whose output enough solutions agree."
    agreed: list[int]
    "For each input, how many solutions agree on its most frequent output."
    passed: int
    "Solutions that pass all cases."
    kept: bool
    "Whether the problem can be trained on."


def filter_problem(
    sandbox: Sandbox,
    inputs: Sequence[str | list[Any]],
    solutions: Sequence[str],
    cfg: CasesConfig | None = None,
    *,
    function: str = "",
    seed: int = 0,
) -> Filtered:
    """Run the solutions on the inputs and let them vote.

    function: the one that they define, where inputs are arguments; empty: they are scripts. A run that fails has no
    vote. A problem of which no case is left is not kept: whatever passes nothing has passed everything.
    """
    cfg = cfg or CasesConfig()
    if len(solutions) < cfg.solutions or not inputs:
        return Filtered([], [0] * len(inputs), 0, False)
    chosen = random.Random(seed).sample(list(solutions), cfg.solutions)
    outputs = _outputs(sandbox, inputs, chosen, function)
    key = _called if function else _printed
    cases, agreed = [], []
    for given, votes in zip(inputs, outputs, strict=True):
        keys = [key(*vote) for vote in votes if vote is not None]
        most, number = Counter(keys).most_common(1)[0] if keys else ("", 0)
        agreed.append(number)
        if number >= cfg.agree:
            expected = next(vote[0] for vote in votes if vote is not None and key(*vote) == most)
            cases.append(Case(expected, arguments=given) if function else Case(expected, stdin=given))
    if not cases:
        return Filtered([], agreed, 0, False)
    verdicts = judge(sandbox, [Submission(solution, cases, function) for solution in chosen])
    passed = sum(verdict.all_passed for verdict in verdicts)
    return Filtered(cases, agreed, passed, passed >= cfg.passing)


def _outputs(
    sandbox: Sandbox, inputs: Sequence[str | list[Any]], solutions: Sequence[str], function: str
) -> list[list[tuple[Any] | None]]:
    """[input][solution]: what came out, in a tuple; None where it failed."""
    if function:
        runs = sandbox.run_all([Program(s, function=function, calls=list(inputs)) for s in solutions])
        return [[(run.values[i],) if i in run.values else None for run in runs] for i in range(len(inputs))]
    runs = sandbox.run_all([Program(s, stdin=given) for given in inputs for s in solutions])
    votes = [_vote(run) for run in runs]
    return [votes[i * len(solutions) : (i + 1) * len(solutions)] for i in range(len(inputs))]


def _vote(run: Run) -> tuple[str] | None:
    return (run.stdout,) if run.ending is Ending.ok else None


def _printed(text: str) -> str:
    """Two outputs are the same where this is: blanks at ends of lines do not count."""
    return json.dumps([line.split() for line in text.strip().split("\n")])


def _called(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
