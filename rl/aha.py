"""Candidates for an aha moment (R1 §2.2.4, table 3) in what a model wrote, by rules that are fixed and stated.

The paper shows one picked answer; here every answer is judged by the same three rules, so that a rate can be held
against that of the base model. Only counted: no reward reads this.

- reflects: the thinking has a self-check word (rl/reflection.py).
- changed: a self-check looked at one result, and the final answer is another. What is looked at: after check, verify
  and 检查, 验算, 验证 the first equation in the rest of the line; before the other words, and where no equation
  follows, the last equation or named result of the thinking so far.
- turned: the final answer is right, and the first result that the thinking put forward (by a self-check, or named as
  the answer) was another.

Two results are the same when their arithmetic gives the same number, (3+5)*8 and 8*(5+3); otherwise when they are the
same text without blanks. A right result of a wrong calculation is thereby told from a wrong one by its numbers alone.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rl.reflection import self_check_spans, thinking_of
from rl.rewards.accuracy import answer_of

RULES = ("reflects", "changed", "turned")
MEANING = {
    "reflects": "the thinking has a self-check word",
    "changed": "a self-check looked at one result and the final answer is another",
    "turned": "right in the end, though the first result put forward was another",
}
READ = 20_000
"Characters of an answer that are read; a loop of a million would tell nothing more."
_EQUATION = re.compile(r"[-+*/().\d][-+*/×÷().\d \t]{0,80}=\s{0,4}-?\d{1,15}(?:\.\d{1,15})?")
_NAMED = re.compile(
    r"(?:\b(?:answer|result) (?:is|would be|must be|should be|=)[ \t:]{0,4}|答案[是为][ \t:：]{0,4}|\\boxed\{)"
    r"([-+*/().\d][-+*/().\d \t]{0,80}|[A-Za-z0-9]{1,20})",
    re.IGNORECASE,
)
_LOOKS_AHEAD = re.compile(r"(?:re)?check|verif|检查|验算|验证", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Aha:
    """Which rules an answer meets, and where: (start, end) of characters in its text."""

    reflects: bool = False
    changed: bool = False
    turned: bool = False
    checks: tuple[tuple[int, int], ...] = ()
    "The self-check words."
    before: tuple[int, int] | None = None
    "The result that did not stay."


@dataclass(frozen=True, slots=True)
class _Claim:
    start: int
    end: int
    result: str


def judge(text: str, right: bool) -> Aha:
    """One answer under the three rules; right: what the task said of it.

    >>> judge("<think>check 3+5=8 low wait</think><answer>3*5</answer>", True)
    Aha(reflects=True, changed=True, turned=True, checks=((7, 12), (23, 27)), before=(13, 18))
    """
    text = text[:READ]
    start = text.find("<think>") + len("<think>")
    thinking = thinking_of(text)
    if not thinking:
        return Aha()
    checks = [(start + first, start + last) for first, last in self_check_spans(thinking)]
    final = answer_of(text[start + len(thinking) :])
    if final is None:
        return Aha(reflects=bool(checks), checks=tuple(checks))

    equations = [_Claim(start + m.start(), start + m.end(), m[0]) for m in _EQUATION.finditer(thinking)]
    named = [_Claim(start + m.start(1), start + m.end(1), m[1].strip()) for m in _NAMED.finditer(thinking)]
    claims = sorted([*equations, *named], key=lambda claim: claim.start)
    looked_at = [claim for check in checks if (claim := _looked_at(text, check, claims, equations))]
    left = next((claim for claim in looked_at if not _agrees(claim.result, final)), None)
    forward = min([*looked_at, *named], key=lambda claim: claim.start, default=None)
    turned = right and forward is not None and not _agrees(forward.result, final)
    before = left or (forward if turned else None)
    return Aha(
        reflects=bool(checks),
        changed=left is not None,
        turned=turned,
        checks=tuple(checks),
        before=(before.start, before.end) if before else None,
    )


def _looked_at(text: str, check: tuple[int, int], claims: list[_Claim], equations: list[_Claim]) -> _Claim | None:
    """The result that a self-check is about."""
    if _LOOKS_AHEAD.match(text, *check):
        line = text.find("\n", check[1])
        end = len(text) if line < 0 else line
        ahead = next((claim for claim in equations if check[1] <= claim.start < end), None)
        if ahead:
            return ahead
    return next((claim for claim in reversed(claims) if claim.end <= check[0]), None)


def _agrees(result: str, final: str) -> bool:
    """Whether a result is the final answer: an equation is, when either of its sides is."""
    sides = [*result.split("="), result] if "=" in result else [result]
    return any(_same(side, final) for side in sides)


def _same(one: str, other: str) -> bool:
    one, other = _bare(one), _bare(other)
    if one == other:
        return True
    values = number(one), number(other)
    return None not in values and values[0] == values[1]


def _bare(text: str) -> str:
    return "".join(text.split()).strip(".").casefold()


def number(expression: str) -> Fraction | None:
    """Value of + - * / and brackets over decimal numbers; None for anything else. Parsed here, never evaluated.

    >>> number("(3+5)*8"), number("-2.5"), number("3+"), number("7/0")
    (Fraction(64, 1), Fraction(-5, 2), None, None)
    """
    tokens = re.findall(r"\d+(?:\.\d+)?|[-+*/()]", expression)
    if len(expression) > 100 or "".join(tokens) != expression:
        return None
    tokens.reverse()
    try:
        value = _sum(tokens, depth=0)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return value if not tokens else None


def _sum(tokens: list[str], depth: int) -> Fraction:
    value = _product(tokens, depth)
    while tokens and tokens[-1] in "+-":
        sign = 1 if tokens.pop() == "+" else -1
        value += sign * _product(tokens, depth)
    return value


def _product(tokens: list[str], depth: int) -> Fraction:
    value = _factor(tokens, depth)
    while tokens and tokens[-1] in "*/":
        value = value * _factor(tokens, depth) if tokens.pop() == "*" else value / _factor(tokens, depth)
    return value


def _factor(tokens: list[str], depth: int) -> Fraction:
    if depth > 40:
        raise ValueError("too deep")
    token = tokens.pop()
    if token == "-":
        return -_factor(tokens, depth + 1)
    if token == "(":
        value = _sum(tokens, depth + 1)
        if tokens.pop() != ")":
            raise ValueError("no closing bracket")
        return value
    return Fraction(token)
