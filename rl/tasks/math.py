"""Whether a mathematical answer is right: numbers by exact arithmetic here, everything else by math-verify.

math-verify runs in worker processes (math_worker.py): what a model wrote may not block or blow up the trainer. A number
is compared here, as most answers are numbers and a comparison there takes milliseconds.
"""

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import islice

from infra.errors import R1Error

MAX_CHARACTERS, MAX_DEPTH = 1000, 16
"Longer answers, and brackets deeper in each other, are wrong; the parser's time doubles with each bracket."
START_S, WALL_PER_CPU, GRACE_S = 300.0, 10.0, 10.0
"How long a worker may take to start; how long it may take for a second of processor time, and beyond that to tell."
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.[0-9]{0,15})?"
_PLAIN = re.compile(
    rf"(?:[A-Za-z] ?= ?)?(?P<sign>[+-]?)[$€£]? ?(?P<top>{_NUMBER})(?: ?/ ?(?P<bottom>[0-9]{{1,15}}))?"
    r" ?(?:%|(?!dozen|hundred|thousand|million|billion|pair)(?:[A-Za-z]{2,20} ?){1,3})?\.?"
)
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([0-9]{1,15})\}\{([0-9]{1,15})\}")
_UNDONE = re.compile(
    r"\\(?:int|iint|oint|sum|prod|lim|partial)(?![A-Za-z])|frac *\{? *(?:\\[a-z]+ *\{? *)?d\b|\bd */ *d"
)
"Operations that math-verify would carry out itself, so that an answer might be the question."


def bare(answer: str) -> str:
    """The answer without the marks of its surroundings: $...$, \\(...\\), \\boxed{...}, TeX spaces, a full stop."""
    text = answer.strip()
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
            text = text[len(left) : -len(right)].strip()
    if text.startswith(r"\boxed{") and text.endswith("}"):
        text = text[len(r"\boxed{") : -1].strip()
    for mark in (r"\$", r"\%", r"\!", r"\,", r"\;", r"\ "):
        text = text.replace(mark, mark[1] if mark[1] in "$%" else " " if mark != r"\!" else "")
    return text.strip()


def plain_number(text: str) -> Fraction | None:
    """The number that a short text says, exactly; None where it is anything else.

    Free are a currency sign, a unit of up to three words, %, thousands by commas, `x =`. 12 dozen is not 12.

    >>> plain_number("$1,234.50"), plain_number("72 clips"), plain_number("3/4"), plain_number("2+2")
    (Fraction(2469, 2), Fraction(72, 1), Fraction(3, 4), None)
    """
    text = bare(text) if len(text) <= MAX_CHARACTERS else ""
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        top, bottom, sign = fraction[2], fraction[3], fraction[1]
    else:
        match = _PLAIN.fullmatch(text)
        if match is None:
            return None
        top, bottom, sign = match["top"].replace(",", "").rstrip("."), match["bottom"] or "1", match["sign"]
    if not int(bottom):
        return None
    return Fraction(top) / int(bottom) * (-1 if sign == "-" else 1)


def numbers_equal(gold: str, answer: str) -> bool:
    """Whether both say the same number; a decimal with as many places as it has is no approximation."""
    right = plain_number(gold)
    return right is not None and plain_number(answer) == right


class _Worker:
    """One process of math_worker, and the job it has."""

    def __init__(self, limit_s: float) -> None:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "rl.tasks.math_worker", str(limit_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self.job: tuple[str, str] | None = None
        self.deadline, self.ready = time.monotonic() + START_S, False

    def give(self, pair: tuple[str, str], limit_s: float) -> None:
        """Set it to work on (gold, answer). Raises BrokenPipeError where it has died."""
        self.process.stdin.write(json.dumps([bare(text) for text in pair]).encode() + b"\n")
        self.job, self.deadline = pair, time.monotonic() + limit_s

    def read(self) -> str:
        """The line it has written; empty where it has died."""
        return self.process.stdout.readline().decode().strip()

    def close(self) -> None:
        """End it and its child: they are a session of their own."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()


class MathChecker:
    """A pool of workers; started with the first question that needs one. Safe to call from several threads."""

    def __init__(self, *, workers: int = 2, limit_s: float = 3.0, remember: int = 20_000) -> None:
        """limit_s: processor time of one comparison. remember: verdicts that are kept."""
        self.workers, self.limit_s, self.remember = workers, limit_s, remember
        self.timeouts = 0
        "Comparisons that were cut off, so far."
        self._pool: list[_Worker] = []
        self._memory: dict[tuple[str, str], bool] = {}
        "The last verdicts: the answers to one question repeat, and what hung once need not hang again."
        self._lock = threading.Lock()

    def check(self, gold: str, answer: str) -> bool:
        """Whether the answer is the gold one: as a number, as the same text, or as math-verify sees it."""
        return self.check_all([(gold, answer)])[0]

    def check_all(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """The same for many (gold, answer), by all workers at once. Raises R1Error where no worker can start."""
        known = {pair: _without_algebra(*pair) for pair in dict.fromkeys(pairs)}
        algebra = [pair for pair, verdict in known.items() if verdict is None]
        if algebra:
            with self._lock:
                known |= {pair: self._memory[pair] for pair in algebra if pair in self._memory}
                try:
                    self._work(deque(pair for pair in algebra if known[pair] is None), known)
                except BaseException:  # Ctrl-C, say: an answer to come would be taken for the next one's
                    self.close()
                    raise
                self._memory |= {pair: bool(known[pair]) for pair in algebra}
                for old in list(islice(self._memory, max(0, len(self._memory) - self.remember))):
                    del self._memory[old]
        return [bool(known[pair]) for pair in pairs]

    def close(self) -> None:
        """End the workers."""
        while self._pool:
            self._pool.pop().close()

    def _work(self, waiting: deque[tuple[str, str]], known: dict[tuple[str, str], bool | None]) -> None:
        while len(self._pool) < min(self.workers, max(len(waiting), len(self._pool))):
            self._pool.append(_Worker(self.limit_s))
        again: set[tuple[str, str]] = set()
        while waiting or any(worker.job for worker in self._pool):
            for worker in list(self._pool):
                if worker.ready and worker.job is None and waiting:
                    pair = waiting.popleft()
                    try:
                        worker.give(pair, WALL_PER_CPU * self.limit_s + GRACE_S)
                    except BrokenPipeError:  # it died in between; the answer is not to blame
                        waiting.appendleft(pair)
                        self._replace(worker)
            busy = [worker for worker in self._pool if worker.job or not worker.ready]
            left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            told, _, _ = select.select([worker.process.stdout for worker in busy], [], [], left)
            for worker in busy:
                if worker.process.stdout in told:
                    line = worker.read()
                    if not line and worker.job and worker.job not in again:  # killed from outside, most likely
                        again.add(worker.job)
                        waiting.appendleft(worker.job)
                        self._replace(worker)
                        continue
                    self._take(worker, line, known)
                elif time.monotonic() >= worker.deadline:
                    self._take(worker, "", known)

    def _take(self, worker: _Worker, line: str, known: dict[tuple[str, str], bool | None]) -> None:
        """A worker's line; an empty one where it is stuck or died twice of one job, and another takes its place."""
        if line == "ready":
            worker.ready = True
            return
        if not line:
            if not worker.ready:
                self.close()
                raise R1Error("math-verify does not start; python -m rl.tasks.math_worker 3 says why")
            self._replace(worker)
        self.timeouts += line in ("", "null")
        known[worker.job] = line == "true"
        worker.job = None

    def _replace(self, worker: _Worker) -> None:
        worker.close()
        self._pool[self._pool.index(worker)] = _Worker(self.limit_s)


@cache
def shared_checker() -> MathChecker:
    """The one pool of this process; it ends with it."""
    checker = MathChecker()
    atexit.register(checker.close)
    return checker


def _without_algebra(gold: str, answer: str) -> bool | None:
    """The verdict where it needs no math-verify; None where it does."""
    if len(answer) > MAX_CHARACTERS or "\0" in answer or not answer.strip():
        return False
    if _depth(answer) > MAX_DEPTH:
        return False
    if _UNDONE.search(answer) and not _UNDONE.search(gold):
        return False
    right, said = plain_number(gold), plain_number(answer)
    if right is not None and said is not None:
        return right == said
    return True if bare(gold) == bare(answer) else None


def _depth(text: str) -> int:
    """How deep brackets of any kind are opened in each other; closing ones are taken on trust."""
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    return deepest
