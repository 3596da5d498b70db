"""Answers judged a second by rule: countdown's, in this process; math-verify's pool beside it, on algebra.

Nothing of it is a race: the two do different work. The first has to keep up with a step's answers (5,000 a second), the
second shows why numbers are compared here and only algebra is sent there. `hostile_s` is what an expression that never
ends costs the pool, replacement included; its limit is a setting.
"""

import time

from experiments.bench.result import Result

ROUNDS, COUNTDOWN, ALGEBRA = 5, 4000, 200
WANTED = 5000
"Checks a second by rule."


def run() -> Result:
    """Right, wrong and malformed answers in turn."""
    from rl.tasks.countdown import Countdown
    from rl.tasks.math import MathChecker

    task = Countdown()
    questions = [task.train_question(i) for i in range(200)]
    wrong = ["1+2+3", "(1+2", "x" * 60, "((((1))))*2"]
    said = [
        (q, f"<think>so\n</think>\n<answer>{q.answer if i % 2 else wrong[i // 2 % 4]}</answer>")
        for i, q in enumerate(questions * (COUNTDOWN // len(questions)))
    ]
    pairs = [(f"{i}x + 2", f"2 + {i}x" if i % 2 else f"2(x+{i})") for i in range(2, ALGEBRA + 2)]
    checker = MathChecker(workers=2, limit_s=2.0, remember=0)
    checker.check_all(pairs[:8])

    def by_rule() -> float:
        start = time.perf_counter()
        for question, text in said:
            task.score(question, text)
        return len(said) / (time.perf_counter() - start)

    def by_algebra() -> float:
        start = time.perf_counter()
        checker.check_all(pairs)
        return len(pairs) / (time.perf_counter() - start)

    rounds = [(by_rule(), by_algebra()) for _ in range(ROUNDS + 1)][1:]
    start = time.perf_counter()
    checker.check("x^2-42", "9^{9^{9^{9}}}")
    hostile = time.perf_counter() - start
    checker.close()
    ours, peer = map(list, zip(*rounds, strict=True))
    return Result.of(
        "reward_checks",
        "checks/s",
        ours,
        peer,
        "math-verify in 2 workers",
        wanted=WANTED,
        hostile_s=hostile,
        limit_s=checker.limit_s,
    )
