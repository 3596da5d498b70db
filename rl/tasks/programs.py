"""The program in an answer, and its verdict by tests in the sandbox (R1 §2.2.2: a compiler and predefined tests)."""

import re
from collections.abc import Sequence

from rl.rewards.accuracy import answer_of
from rl.sandbox import runner
from rl.sandbox.judge import Case, Submission, Verdict, judge
from rl.tasks.code_config import CodeConfig
from rl.types import Question

MAX_CHARACTERS = 50_000
"A longer program is none."
_FENCE = re.compile(r"```[A-Za-z0-9+]*[ \t]*\n(.*?)```", re.DOTALL)
NOTHING = {"compiled": 0.0, "tests": 0.0, "all_tests": 0.0}
"The parts of an answer in which there is no program."


def program_of(text: str) -> str | None:
    """The program in a response: its answer, or the last fenced block in that; None where there is none.

    program_of("<answer>```python\\nprint(1)\\n```</answer>") is "print(1)\\n".
    """
    answer = answer_of(text)
    if answer is None:
        return None
    fenced = _FENCE.findall(answer) if len(answer) <= 2 * MAX_CHARACTERS else []
    program = fenced[-1] if fenced else answer
    return program if program.strip() and len(program) <= MAX_CHARACTERS else None


def as_function(program: str, name: str, parameter: str) -> str:
    """An expression in one parameter as a function; what defines something already is left as it is.

    as_function("3 * x", "f", "x") is "def f(x):\\n    return (\\n3 * x\\n    )\\n".
    """
    if re.search(rf"\b(def|lambda)\b|\b{name} *=", program):
        return program
    return f"def {name}({parameter}):\n    return (\n{program.strip()}\n    )\n"


class Tries:
    """Verdicts on answers. A batch that was announced is run at once, on all cells; others one by one."""

    def __init__(self, cfg: CodeConfig, *, ready: bool) -> None:
        """ready: whether a sandbox is made now, else at the first try. Raises SandboxError where there can be none."""
        self.cfg = cfg
        self._known: dict[tuple[str, str], Verdict] = {}
        if ready:
            runner.shared(cfg.sandbox)

    def announce(self, asked: Sequence[tuple[Question, Submission]]) -> None:
        """Run a batch; what the batch before has shown is forgotten."""
        unique = {(question.id, submission.source): submission for question, submission in asked}
        verdicts = judge(runner.shared(self.cfg.sandbox), list(unique.values()))
        self._known = dict(zip(unique, verdicts, strict=True))

    def verdict(self, question: Question, submission: Submission) -> Verdict:
        """Of one answer."""
        key = question.id, submission.source
        if key not in self._known:
            self._known[key] = judge(runner.shared(self.cfg.sandbox), [submission])[0]
        return self._known[key]


class Tested:
    """The part of a task that judges programs by a question's meta: function, cases (fields of Case), parameter."""

    def __init__(self, cfg: CodeConfig, *, ready: bool) -> None:
        self.code_cfg, self.tries = cfg, Tries(cfg, ready=ready)

    def submission(self, question: Question, text: str) -> Submission | None:
        """What a response hands in."""
        program = program_of(text)
        if program is None:
            return None
        function, cases = question.meta["function"], question.meta["cases"]
        if question.meta.get("parameter"):
            program = as_function(program, function, question.meta["parameter"])
        kept = cases[: self.code_cfg.max_tests or None]
        return Submission(program, [Case(**case) for case in kept], function)

    def prepare(self, answers: Sequence[tuple[Question, str]]) -> None:
        """Try a batch of (question, response) at once; the scores are then there."""
        pairs = [(question, self.submission(question, text)) for question, text in answers]
        self.tries.announce([(question, handed) for question, handed in pairs if handed is not None])

    def score_parts(self, question: Question, text: str) -> tuple[float, dict[str, float]]:
        """-> (1.0 where all tests pass, else 0.0; compiled, tests: the share passed, all_tests)."""
        handed = self.submission(question, text)
        if handed is None:
            return 0.0, dict(NOTHING)
        parts = self.tries.verdict(question, handed).parts()
        return parts["all_tests"], parts

    def score(self, question: Question, text: str) -> float:
        """1.0 where all tests pass."""
        return self.score_parts(question, text)[0]
