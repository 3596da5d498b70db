"""Whether a program passes its cases. It is given inputs; what is expected stays here, outside the sandbox."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl.sandbox.runner import Ending, Program, Run, Sandbox

TOLERANCE = 1e-9
"How far a real number may be off, relative and absolute."
_REAL = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Case:
    """One test: what goes in, and what has to come out.

    Examples: Case(stdin="1 2\\n", expected="3\\n"); Case(arguments=[1, 2], expected=3)
    """

    expected: Any
    "Text for a script, a JSON value for a function."
    stdin: str = ""
    "What a script reads."
    arguments: Sequence[Any] | None = None
    "What the function is called with, JSON values; None: the case is of a script."


@dataclass(frozen=True, slots=True)
class Submission:
    """A program with the cases it is tried on."""

    source: str
    "Python."
    cases: Sequence[Case]
    "At least one."
    function: str = ""
    "Name of the function that the cases call; empty: they are of a script."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out."""

    compiled: bool
    "Whether it compiles."
    passed: tuple[bool, ...]
    "For each case."
    ending: Ending
    "How its first failing run ended; ok where all ended by themselves, right or wrong."
    error: str = ""
    "What the program said of its failure; a stranger's text."

    @property
    def share(self) -> float:
        """Cases passed, of all."""
        return sum(self.passed) / len(self.passed)

    @property
    def all_passed(self) -> bool:
        """Whether it is right, as far as the cases tell."""
        return all(self.passed)

    def parts(self) -> dict[str, float]:
        """For a reward's breakdown, each 0 to 1."""
        return {"compiled": float(self.compiled), "tests": self.share, "all_tests": float(self.all_passed)}


def judge(sandbox: Sandbox, submissions: Sequence[Submission]) -> list[Verdict]:
    """Run programs on their cases; -> a verdict each, in their order.

    The calls of a function are made in one run. A script is run for each case, but no more after its first case where
    that showed that it does not compile or exceeds a limit: the others then count as failed.
    """
    first = sandbox.run_all([_programs(s)[0] for s in submissions])
    rest = [[] if _hopeless(run) else _programs(s)[1:] for s, run in zip(submissions, first, strict=True)]
    later = iter(sandbox.run_all([program for programs in rest for program in programs]))
    verdicts = []
    for submission, run, programs in zip(submissions, first, rest, strict=True):
        verdicts.append(_verdict(submission, [run, *(next(later) for _ in programs)]))
    return verdicts


def _programs(submission: Submission) -> list[Program]:
    if submission.function:
        calls = [list(case.arguments or ()) for case in submission.cases]
        return [Program(submission.source, function=submission.function, calls=calls)]
    return [Program(submission.source, stdin=case.stdin) for case in submission.cases]


def _hopeless(run: Run) -> bool:
    return run.ending in (Ending.syntax, Ending.cpu, Ending.wall, Ending.output)


def _verdict(submission: Submission, runs: list[Run]) -> Verdict:
    if submission.function:
        values = runs[0].values
        passed = [i in values and same_value(values[i], case.expected) for i, case in enumerate(submission.cases)]
    else:
        passed = [
            run.ending is Ending.ok and same_output(run.stdout, case.expected)
            for run, case in zip(runs, submission.cases, strict=False)
        ]
        passed += [False] * (len(submission.cases) - len(runs))
    failed = next((run for run in runs if run.ending is not Ending.ok), None)
    error = next((run.error for run in runs if run.error), "")
    return Verdict(runs[0].compiled, tuple(passed), failed.ending if failed else Ending.ok, error)


def same_output(text: str, expected: str) -> bool:
    """Whether two outputs are the same but for blanks and empty lines at the end; reals within TOLERANCE.

    same_output("1  2\\n3\\n\\n", "1 2\\n3") is True, same_output("1\\n2 3", "1 2\\n3") is False.
    """
    ours, theirs = _tokens(text), _tokens(expected)
    return list(map(len, ours)) == list(map(len, theirs)) and all(
        _same_token(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)
    )


def _tokens(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().split("\n")]


def _same_token(ours: str, expected: str) -> bool:
    if ours == expected:
        return True
    if "." not in expected or not (_REAL.fullmatch(ours) and _REAL.fullmatch(expected)):
        return False
    return _close(float(ours), float(expected))


def same_value(value: Any, expected: Any) -> bool:
    """Whether two JSON values are the same: true is not 1, reals within TOLERANCE, no NaN is right."""
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(same_value(a, b) for a, b in zip(value, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same_value(value[key], expected[key]) for key in expected)
        )
    if type(value) is type(expected) and not isinstance(value, float):
        return value == expected
    numbers = {type(value), type(expected)} <= {int, float}
    return numbers and _close(value, expected)


def _close(ours: float, expected: float) -> bool:
    try:
        return math.isclose(ours, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an int that no float holds
        return False
