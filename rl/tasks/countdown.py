"""Countdown: make a target from three numbers. Answers are parsed here, never evaluated by Python."""

import random
import re
from fractions import Fraction

from rl.rewards.accuracy import answer_of
from rl.tasks.base import Prompter, Template, for_training, shortage
from rl.types import Question
from training.data.countdown import Numbers, held_out, number_sets, orders, question_text, reachable, search

MAX_CHARACTERS = 64
MAX_DEPTH = 16
_TOKEN = re.compile(r"\s*(?:([1-9][0-9]{0,2}|0)(?![0-9])|([-+*/()]))", re.ASCII)


class Countdown:
    """Training questions over the number sets of the corpus, test questions over the held-out ones."""

    name = "countdown"

    def __init__(self, *, seed: int = 0, template: Prompter = Template.short) -> None:
        self.seed, self.template = seed, template

    def train_question(self, i: int) -> Question:
        """Three numbers of an allowed set in random order, a target uniform over what they reach."""
        rng = random.Random(f"countdown/{self.seed}/{i}")
        numbers = rng.choice(orders(held=False))
        question = self._question(f"{self.name}/train/{i}", numbers, rng.choice(reachable(numbers)))
        return for_training(question, held=held_out(numbers))

    def test_questions(self, n: int) -> list[Question]:
        """Every held-out (set, target) once in random order before any comes a second time, its numbers reordered."""
        rng = random.Random("countdown/test")
        asked = []
        rounds = [_distinct_orders(s, rng) for s in number_sets(held=True)]
        for again in range(6):
            part = [(r[again], target) for r in rounds if again < len(r) for target in reachable(r[again])]
            rng.shuffle(part)
            asked += part
        if n > len(asked):
            raise shortage(self.name, n, len(asked))
        return [self._question(f"{self.name}/test/{i}", *asked[i]) for i in range(n)]

    def score(self, question: Question, text: str) -> float:
        """1.0 where the answer is an expression of the target that uses each number once."""
        answer = answer_of(text)
        return 0.0 if answer is None else score_expression(answer, question.meta["numbers"], question.meta["target"])

    def difficulty(self, question: Question) -> float:
        """More numbers are harder; among as many, larger ones: count + mean / (1 + mean). [3, 5, 7] has 3.83."""
        numbers = question.meta["numbers"]
        mean = sum(numbers) / len(numbers)
        return len(numbers) + mean / (1 + mean)

    def _question(self, name: str, numbers: Numbers, target: int) -> Question:
        answer = next(s.expression for line in search(numbers) for s in line.steps if s.value == target)
        prompt = self.template.prompt((_in_words if self.template.in_words else question_text)(numbers, target))
        return Question(name, self.name, prompt, answer, {"numbers": list(numbers), "target": target})


def _in_words(numbers: Numbers, target: int) -> str:
    """The question with its rules. The example's numbers are never asked, so that it is no answer."""
    return (
        f"Make {target} from the numbers {', '.join(map(str, numbers))}: use each of them exactly once, with + - * / "
        "and brackets. The answer is the expression alone, as in (11 + 12) * 13."
    )


def _distinct_orders(numbers: Numbers, rng: random.Random) -> list[Numbers]:
    """The orders of the numbers, shuffled."""
    distinct = [t for t in orders(held=True) if tuple(sorted(t)) == numbers]
    rng.shuffle(distinct)
    return distinct


def score_expression(answer: str, numbers: list[int], target: int) -> float:
    """1.0 where `answer` uses exactly `numbers`, each once, and comes to `target` exactly; else 0.0.

    Expressions have whole numbers, + - * / and brackets, no signs, at most MAX_CHARACTERS characters. Numbers are
    compared before anything is computed, so no arithmetic can be large.
    """
    tokens = _tokenize(answer)
    if tokens is None or sorted(int(t) for t in tokens if t.isdigit()) != sorted(numbers):
        return 0.0
    try:
        return float(_Parser(tokens).parse() == target)
    except (_SyntaxError, ZeroDivisionError):
        return 0.0


class _SyntaxError(Exception):
    """Not an expression."""


def _tokenize(text: str) -> list[str] | None:
    """Numbers and operators of a short text; None for anything else."""
    text = text.strip() if len(text) <= MAX_CHARACTERS else ""
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[1] or match[2])
        at = match.end()
    return tokens or None


class _Parser:
    """Recursive descent: sum = product (+- product)*, product = atom (*/ atom)*, atom = number | ( sum )."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens + [""], 0, 0

    def parse(self) -> Fraction:
        value = self._sum()
        if self.tokens[self.at]:
            raise _SyntaxError
        return value

    def _sum(self) -> Fraction:
        value = self._product()
        while self.tokens[self.at] in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            value += sign * self._product()
        return value

    def _product(self) -> Fraction:
        value = self._atom()
        while self.tokens[self.at] in ("*", "/"):
            if self._next() == "*":
                value *= self._atom()
            else:
                value /= self._atom()
        return value

    def _atom(self) -> Fraction:
        token = self._next()
        if token.isdigit():
            return Fraction(int(token))
        if token != "(" or self.depth >= MAX_DEPTH:
            raise _SyntaxError
        self.depth += 1
        value = self._sum()
        if self._next() != ")":
            raise _SyntaxError
        self.depth -= 1
        return value

    def _next(self) -> str:
        token = self.tokens[self.at]
        if not token:
            raise _SyntaxError
        self.at += 1
        return token
