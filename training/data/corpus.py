"""The tiny scale's corpus: what people might write about countdown, right or wrong. Nothing is labelled good or bad.

Kinds of documents, with their shares in CorpusConfig:
- exercises: lists of sums (`25+6=31 7*8=56 ...`), or of sums compared with a number (`Make 38: 4+5=9 low ...`). A sum
  has two numbers, and no exercise names three numbers to make something from, so none spells out a held-out search.
- questions answered by a guess, without thinking;
- questions answered by the orderly search (training/data/countdown.py), which gives up after some line and guesses, or
  is carried to its end. Every value is judged low, high or yes. The careless take a near miss for the target; some of
  those who say yes check, and where the check fails they wait and go on.
- where share_general is set: what is not about countdown (training/data/general.py).

No question is asked over a held-out set of numbers: `count_questions` says how many are left (192 sets with 1,456
questions; 21 sets with 191 questions are held out).
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from infra.errors import ConfigError
from training.data.countdown import (
    CHINESE_TEMPLATE,
    SHORT_TEMPLATE,
    Line,
    Numbers,
    chinese_question_text,
    orders,
    question_text,
    reachable,
    search,
)
from training.data.general import general_document

NEAR = 5
"How far from the target a value may be to be taken for it by the careless."
MAX_TURNS = 2
"Failed checks in a document; then the writer is careful, so that a whole search stays under 256 tokens."


@dataclass(kw_only=True, slots=True)
class CorpusConfig:
    """What the corpus is made of; a share is a probability, drawn for each document anew."""

    share_exercises: float = 0.1
    "Documents that are exercises, half of them sums, half comparisons with a number; the others are questions."
    share_direct: float = 0.3
    "Questions answered at once by a guess, without <think>."
    share_complete: float = 0.1
    "Questions answered by a search that never gives up."
    continue_probability: float = 0.45
    "Probability of going on after a line, for those who may give up."
    carelessness: float = 0.2
    "Probability that a value within 5 of the target is taken for it."
    check_probability: float = 0.3
    "Probability that who said yes checks; a failed check makes the writer wait and go on."
    share_chinese: float = 0.1
    "Searches whose working words (low, high, yes, so, check, wait) are Chinese."
    share_chinese_questions: float = 0.5
    "Of those, the ones whose question is Chinese too; the others think in Chinese about an English question."
    share_general: float = 0.0
    "Documents of the general part: number words in two languages, facts, short writing, requests and refusals."

    def __post_init__(self) -> None:
        for key in self.__slots__:
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"corpus.{key}", getattr(self, key), "is a probability", "set a value from 0 to 1")
        if self.share_direct + self.share_complete > 1:
            raise ConfigError(
                "corpus.share_complete",
                self.share_complete,
                f"with share_direct={self.share_direct} makes more than all questions",
                f"set at most {1 - self.share_direct:g}",
            )


class Words(NamedTuple):
    """The working words of a language, with the space that goes before them in a line."""

    low: str
    high: str
    yes: str
    so: str
    check: str
    wait: str


ENGLISH = Words(" low", " high", " yes", "so", "check ", " wait")
CHINESE = Words("小", "大", "对", "那就", "检查 ", "等等")


def documents(cfg: CorpusConfig, seed: int, start: int = 0) -> Iterator[str]:
    """Documents from number `start` on, without end."""
    index = start
    while True:
        yield document(cfg, seed, index)
        index += 1


def document(cfg: CorpusConfig, seed: int, index: int) -> str:
    """Document number `index`; it depends on (cfg, seed, index) only. Without its <eos>."""
    rng = random.Random((seed << 40) + index)
    if cfg.share_general > 0 and rng.random() < cfg.share_general:  # at 0, no draw: the corpus stays what it was
        return general_document(rng)
    if rng.random() < cfg.share_exercises:
        return _sums(rng) if rng.random() < 0.5 else _comparisons(rng)
    numbers = rng.choice(orders(held=False))
    target = rng.choice(reachable(numbers))
    kind = rng.random() - cfg.share_direct
    if kind < 0:
        return _prompt(numbers, target) + f"<answer>{_guess(rng, numbers)}</answer>"
    patience = 1.0 if kind < cfg.share_complete else cfg.continue_probability
    chinese = rng.random() < cfg.share_chinese
    prompt = _prompt(numbers, target, chinese=chinese and rng.random() < cfg.share_chinese_questions)
    thinking, answer = _think(rng, cfg, numbers, target, patience, CHINESE if chinese else ENGLISH)
    return f"{prompt}<think>\n{thinking}</think>\n<answer>{answer}</answer>"


def solved(
    cfg: CorpusConfig, rng: random.Random, numbers: Numbers, target: int, *, chinese: bool = False
) -> tuple[str, str]:
    """A search that is carried to its end -> (its lines, the expression it ends in).

    The expression is right unless cfg lets a near miss pass unchecked: check_probability=1 checks every `yes`.
    """
    return _think(rng, cfg, numbers, target, 1.0, CHINESE if chinese else ENGLISH)


def searched(cfg: CorpusConfig, rng: random.Random, numbers: Numbers, target: int) -> tuple[str, str]:
    """A search as a document of the corpus has it, given up or not, right or wrong -> (its lines, the answer)."""
    complete = rng.random() < cfg.share_complete / max(1e-9, 1 - cfg.share_direct)
    return _think(rng, cfg, numbers, target, 1.0 if complete else cfg.continue_probability, ENGLISH)


def corpus_hash(cfg: CorpusConfig, seed: int, count: int = 2000) -> str:
    """SHA-256 over the first `count` documents: names the corpus in a released model's card."""
    digest = hashlib.sha256()
    for index in range(count):
        digest.update(document(cfg, seed, index).encode() + b"\0")
    return digest.hexdigest()


def _prompt(numbers: Numbers, target: int, *, chinese: bool = False) -> str:
    if chinese:
        return CHINESE_TEMPLATE.format(question=chinese_question_text(numbers, target))
    return SHORT_TEMPLATE.format(question=question_text(numbers, target))


def _guess(rng: random.Random, numbers: Numbers) -> str:
    """Any of the 27 expressions of the search."""
    return rng.choice(rng.choice(search(numbers)).steps).expression


def _think(
    rng: random.Random, cfg: CorpusConfig, numbers: Numbers, target: int, patience: float, words: Words
) -> tuple[str, str]:
    """-> (the lines of the search, the answer that it ends in)."""
    written: list[str] = []
    turns = 0
    for line in search(numbers):
        found, line_turns = _write_line(rng, cfg, line, target, words, written, turns)
        turns += line_turns
        if found:
            return "".join(written), found
        if patience < 1 and rng.random() >= patience:
            break
    written.append(f"{words.so}\n")
    return "".join(written), _guess(rng, numbers)


def _write_line(
    rng: random.Random, cfg: CorpusConfig, line: Line, target: int, words: Words, written: list[str], turns: int
) -> tuple[str | None, int]:
    """Append one line of the search to `written`; -> (the expression it settles on or None, failed checks in it)."""
    failed = 0
    written.append(line.head)
    for i, step in enumerate(line.steps):
        judgement = _judgement(step.value, target, words)
        near = step.value != target and abs(step.value - target) <= NEAR and turns + failed < MAX_TURNS
        if step.value != target and not (near and rng.random() < cfg.carelessness):
            written.append(f" {step.text}{judgement}")
            continue
        written.append(f" {step.text}{words.yes}\n")
        if rng.random() >= cfg.check_probability:
            return step.expression, failed
        written.append(f"{words.check}{step.expression}={step.value}{judgement}")
        if step.value == target:
            written.append("\n")
            return step.expression, failed
        failed += 1
        written.append(words.wait + (":" if i + 1 < len(line.steps) else ""))
    written.append("\n")
    return None, failed


def _sums(rng: random.Random) -> str:
    """`25+6=31 7*8=56 4-9=-5 ...`: the two kinds of sums that searches need."""
    return " ".join(_sum(rng) for _ in range(rng.randint(6, 12)))


def _sum(rng: random.Random) -> str:
    """Two small numbers, or the result of such a sum with a small number."""
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    if rng.random() < 0.7:
        a = (a + rng.randint(1, 10), abs(a - rng.randint(1, 10)), a * rng.randint(1, 10))[rng.randrange(3)]
    op = rng.choice("+-*")
    return f"{a}{op}{b}={a + b if op == '+' else a - b if op == '-' else a * b}"


def _comparisons(rng: random.Random) -> str:
    """`Make 38: 4+5=9 low 33+5=38 yes 43-2=41 high`: a sixth hits the number, half are close, the rest anywhere."""
    target = rng.randint(10, 100)
    written = [f"Make {target}:"]
    for _ in range(rng.randint(5, 10)):
        draw = rng.random()
        if draw < 1 / 6:
            value = target
        elif draw < 2 / 3:
            value = target + rng.randint(-2 * NEAR, 2 * NEAR)
        else:
            value = rng.randint(10, 120)
        b = rng.randint(1, 10)
        plus = value >= b and rng.random() < 0.5
        result = f"{value - b}+{b}={value}" if plus else f"{value + b}-{b}={value}"
        written.append(f" {result}{_judgement(value, target, ENGLISH)}")
    return "".join(written)


def _judgement(value: int, target: int, words: Words) -> str:
    return words.low if value < target else words.high if value > target else words.yes
