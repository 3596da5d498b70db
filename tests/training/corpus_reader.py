"""Reads documents of the corpus back, line by line, by a parser of its own; asserts what each line claims."""

import re
from dataclasses import dataclass, field

from tests.arithmetic import numbers_in, value_of

ENGLISH = {" low": "low", " high": "high", " yes": "yes"}
CHINESE = {"小": "low", "大": "high", "对": "yes"}
JUDGEMENT = "( low| high| yes|小|大|对)"
QUESTION = re.compile(
    r"(?:User: Make (?P<t>\d+) from (?P<n>\d+, \d+, \d+)\.\nAssistant:"
    r"|用户：用 (?P<cn>\d+, \d+, \d+) 算出 (?P<ct>\d+)。\n助手：)"
    r"(?:<think>\n(?P<thinking>.*)</think>\n)?<answer>(?P<answer>[^<>]*)</answer>",
    re.DOTALL,
)
SUM = r"\d+[+*-]\d+=-?\d+"
SUMS = re.compile(f"{SUM}(?: {SUM}){{5,11}}")
COMPARISONS = re.compile(f"Make (\\d+):((?: {SUM} (?:low|high|yes)){{5,10}})")


@dataclass
class Searched:
    """A question and what its document says."""

    numbers: list[int]
    target: int
    thinking: str | None
    answer: str
    chinese_question: bool
    chinese: bool = False
    values: list[tuple[str, int, str]] = field(default_factory=list)
    "(expression, value, judgement) as written behind the lines' heads."
    checks: list[tuple[str, int, str]] = field(default_factory=list)
    lines: int = 0
    gave_up: bool = False
    waits: int = 0


def question_of(text: str) -> Searched | None:
    """None for an exercise."""
    match = QUESTION.fullmatch(text)
    if match is None:
        return None
    numbers = [int(n) for n in (match["n"] or match["cn"]).split(", ")]
    target = int(match["t"] or match["ct"])
    return Searched(numbers, target, match["thinking"], match["answer"], match["cn"] is not None)


def judged(value: int, target: int) -> str:
    return "low" if value < target else "high" if value > target else "yes"


def expected_heads(numbers: list[int]) -> list[str]:
    a, b, c = numbers
    heads = []
    for x, y in ((a, b), (a, c), (b, c)):
        heads += [f"{x}+{y}", f"{max(x, y)}-{min(x, y)}", f"{x}*{y}"]
    return heads


def read_search(doc: Searched) -> None:
    """Fill in what the thinking says. Asserts every line: its sums, its judgements, that it is where it belongs."""
    assert doc.thinking.endswith("\n")
    lines = doc.thinking[:-1].split("\n")
    doc.chinese = not any(word in doc.thinking for word in ENGLISH)
    words = CHINESE if doc.chinese else ENGLISH
    so, check, wait = ("那就", "检查 ", "等等") if doc.chinese else ("so", "check ", " wait")
    if lines[-1] == so:
        doc.gave_up = True
        lines.pop()
    heads, open_check, first, start = expected_heads(doc.numbers), False, "", 0
    for number, line in enumerate(lines):
        last = number == len(lines) - 1 and not doc.gave_up
        if line.startswith(check):
            assert open_check, "a check follows a yes"
            match = re.fullmatch(rf"{check}([^=]+)=(-?\d+){JUDGEMENT}(?:({wait})(:.*)?)?", line)
            expression, value, judgement, waits, rest = match.groups()
            assert (expression, int(value)) == doc.values[-1][:2]
            assert words[judgement] == judged(int(value), doc.target)
            doc.checks.append((expression, int(value), words[judgement]))
            assert (waits is None) is (int(value) == doc.target)
            assert waits or last, "a check that holds ends the search"
            doc.waits += waits is not None
            rest = (rest or ":")[1:]
        else:
            assert not open_check, "a yes ends the search or is checked"
            start = len(doc.values)
            doc.lines += 1
            head, _, rest = line.partition(":")
            first, result = head.split("=")
            assert first == heads[doc.lines - 1]
            assert value_of(first) == int(result)
        items = re.findall(rf" ([+*-])(\d+)=(-?\d+){JUDGEMENT}", rest)
        assert "".join(f" {op}{n}={v}{j}" for op, n, v, j in items) == rest
        ops = "+-*"[len(doc.values) - start :]
        assert "".join(op for op, *_ in items) == ops[: len(items)]
        for i, (op, n, value, judgement) in enumerate(items):
            expression, value = f"({first}){op}{n}", int(value)
            assert value_of(expression) == value
            assert sorted(numbers_in(expression)) == sorted(doc.numbers)
            if words[judgement] == "yes":
                assert abs(value - doc.target) <= 5  # right, or the careless one's near miss
                assert i == len(items) - 1, "yes ends the line"
            else:
                assert words[judgement] == judged(value, doc.target)
            doc.values.append((expression, value, words[judgement]))
        open_check = bool(items) and doc.values[-1][2] == "yes"
        assert len(items) == len(ops) or open_check or last, "only a yes cuts a line short"
    if doc.gave_up:
        assert not open_check
        assert sorted(numbers_in(doc.answer)) == sorted(doc.numbers)
    else:
        assert doc.values[-1][2] == "yes" and doc.answer == doc.values[-1][0]
