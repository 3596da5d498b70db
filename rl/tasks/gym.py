"""Families of reasoning-gym, asked in our own words and judged by our own rule.

Its own scorers are never called: several run the answer as Python, others pay for parts of an answer. Its items
overlap between seeds (item i of seed s is item 0 of seed s + i), so the split is by the question itself: one whose
tokens, sorted, hash into the first tenth is asked in tests only; `3 + 5` and `5 + 3` fall together, whichever family
asks them.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rl.rewards.accuracy import answer_of
from rl.tasks.base import Prompter, Template, for_training, shortage
from rl.types import Question
from training.data.split import in_test_split

TRAIN_SEEDS_APART = 1_000_000_000
"Distance between the items of two training seeds; test items start at 0, those of training seed s at (s + 1) times it."
RETRY_APART = 50_000_000
"How far on the next item is looked for where one belongs to the tests."


@dataclass(frozen=True, slots=True)
class Family:
    """One family of questions at a size for small models."""

    text: Callable[[dict], str]
    "The question in our words, from the item's metadata."
    whole_number: bool = True
    "Whether the answer is a whole number; otherwise it compares as text."
    settings: dict[str, Any] = field(default_factory=dict)
    "What reasoning-gym is told."


def _sum(meta: dict) -> str:
    return f"{meta['expression']} = ?"


_SMALL = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}
FAMILIES = {
    "chain_sum": Family(_sum, settings=_SMALL),
    "products": Family(_sum, settings=_SMALL | {"max_terms": 2}),
    "gcd": Family(lambda meta: f"gcd({', '.join(map(str, meta['numbers']))}) = ?", settings={"max_value": 100}),
    "spell_backward": Family(
        lambda meta: f"Spell {meta['word']} backward.",
        whole_number=False,
        settings={"min_word_len": 3, "max_word_len": 6},
    ),
    "basic_arithmetic": Family(_sum, settings=_SMALL | {"allow_negation": False}),
    "simple_equations": Family(
        lambda meta: f"{meta['equation']}, {meta['variable']} = ?", settings={"max_terms": 3, "max_value": 20}
    ),
}


class GymTask:
    """Questions of one family. reasoning-gym is imported with the first question, as that takes seconds."""

    def __init__(self, name: str, *, seed: int = 0, template: Prompter = Template.short) -> None:
        self.name, self.seed, self.template, self.family = name, seed, template, FAMILIES[name]
        self._dataset: Any = None

    def train_question(self, i: int) -> Question:
        """Item i of the seed; where the tests own it, the first one further on that they do not."""
        item = (self.seed + 1) * TRAIN_SEEDS_APART + i
        while in_test_split(text := self._text(item)):
            item += RETRY_APART
        return for_training(self._question(f"{self.name}/train/{i}", item), held=in_test_split(text))

    def test_questions(self, n: int) -> list[Question]:
        """The first n different questions that belong to the tests."""
        found: dict[str, int] = {}
        tries = 0
        while len(found) < n:
            if tries > 100 * n + 10_000:  # a tenth of the items belong to the tests: this family has no more
                raise shortage(self.name, n, len(found))
            text = self._text(tries)
            if in_test_split(text):
                found.setdefault(text, tries)
            tries += 1
        return [self._question(f"{self.name}/test/{k}", item) for k, item in enumerate(found.values())]

    def score(self, question: Question, text: str) -> float:
        """1.0 for exactly the right number, or exactly the right text."""
        answer = answer_of(text)
        if answer is None:
            return 0.0
        if not self.family.whole_number:
            return float(answer == question.answer)
        number = re.fullmatch(r"[+-]?[0-9]{1,12}", answer)
        return float(number is not None and int(answer) == int(question.answer))

    def difficulty(self, question: Question) -> float:
        """Characters of the prompt: more terms, larger numbers, longer words."""
        return float(len(question.prompt))

    def _question(self, name: str, item: int) -> Question:
        return Question(name, self.name, self.template.prompt(self._text(item)), self._item(item)["answer"])

    def _text(self, item: int) -> str:
        return self.family.text(self._item(item)["metadata"])

    def _item(self, item: int) -> dict:
        """reasoning-gym's item of seed 0; one dataset serves all seeds, as making one may read a whole word list."""
        if self._dataset is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its dependencies warn about their own syntax
                import reasoning_gym

            self._dataset = reasoning_gym.create_dataset(self.name, size=1, seed=0, **self.family.settings)
        return self._dataset[item]
