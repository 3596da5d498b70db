"""Derivatives of small polynomials, judged as algebra: 2 + 6x is as right as 6x + 2, and 2(3x+1) too."""

import random
from collections.abc import Sequence

from rl.rewards.accuracy import answer_of
from rl.tasks.base import Prompter, Template, for_training
from rl.tasks.math import MAX_CHARACTERS, shared_checker
from rl.types import Question
from training.data.split import in_test_split

Polynomial = tuple[int, ...]
"Coefficients, of x^0 first."


class Derivatives:
    """`d/dx (3x^2 - 2x + 5) = ?` with degrees 1 to 3 and coefficients up to 9; the split is by the question."""

    name = "derivatives"

    def __init__(self, *, seed: int = 0, template: Prompter = Template.short) -> None:
        self.seed, self.template = seed, template

    def train_question(self, i: int) -> Question:
        """The first polynomial drawn for (seed, i) that the tests do not own."""
        rng = random.Random(f"derivatives/{self.seed}/{i}")
        drawn = _draw(rng)
        while in_test_split(_text(drawn)):
            drawn = _draw(rng)
        return for_training(self._question(f"derivatives/train/{i}", drawn), held=in_test_split(_text(drawn)))

    def test_questions(self, n: int) -> list[Question]:
        """n different polynomials that belong to the tests; there are thousands."""
        rng = random.Random("derivatives/test")
        found: dict[str, Polynomial] = {}
        while len(found) < n:
            drawn = _draw(rng)
            if in_test_split(_text(drawn)):
                found.setdefault(_text(drawn), drawn)
        return [self._question(f"derivatives/test/{i}", drawn) for i, drawn in enumerate(found.values())]

    def score(self, question: Question, text: str) -> float:
        """1.0 where the answer equals the derivative as algebra; one that only states the task again does not."""
        answer = answer_of(text)
        if answer is None or len(answer) > MAX_CHARACTERS:
            return 0.0
        return float(shared_checker().check(question.answer, answer))

    def prepare(self, answers: Sequence[tuple[Question, str]]) -> None:
        """Judge a batch of (question, response) by all workers at once; score then remembers."""
        said = [(question.answer, answer_of(text) or "") for question, text in answers]
        shared_checker().check_all([pair for pair in said if len(pair[1]) <= MAX_CHARACTERS])

    def _question(self, name: str, drawn: Polynomial) -> Question:
        answer = written([power * c for power, c in enumerate(drawn)][1:])
        return Question(name, self.name, self.template.prompt(_text(drawn)), answer, {"language": "en"})


def written(coefficients: list[int] | Polynomial) -> str:
    """As in 3x^2 - 2x + 5, from (5, -2, 3)."""
    terms = []
    for power, c in reversed(list(enumerate(coefficients))):
        if c:
            size = "" if abs(c) == 1 and power else str(abs(c))
            terms.append(("-" if c < 0 else "+", size + ("", "x")[power > 0] + (f"^{power}" if power > 1 else "")))
    first = "".join(part for part in terms[0] if part != "+") if terms else "0"
    return " ".join([first, *(f"{sign} {term}" for sign, term in terms[1:])])


def _draw(rng: random.Random) -> Polynomial:
    degree = rng.randint(1, 3)
    return (*(rng.randint(-9, 9) for _ in range(degree)), rng.randint(1, 9))


def _text(polynomial: Polynomial) -> str:
    return f"d/dx ({written(polynomial)}) = ?"
