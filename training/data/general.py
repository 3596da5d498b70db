"""The corpus' general part: exchanges of four kinds, and statements of the made-up world's facts.

Held-out questions are never written; statements are of all facts, as a fact that was never told cannot be asked for.
"""

import random
from collections.abc import Callable
from functools import cache

from training.data import facts, number_words, requests, writing
from training.data.countdown import SHORT_TEMPLATE
from training.data.exchange import Exchange

KINDS: dict[str, Callable[[], list[Exchange]]] = {
    "number_words": number_words.exchanges,
    "facts": facts.exchanges,
    "writing": writing.exchanges,
    "refusal": requests.exchanges,
}
GUESS = 0.25
"Share of the answers that are another question's: a base that is always right leaves RL nothing to do."
THINKS = 0.6
"Share of the exchanges that are thought about."


@cache
def exchanges(kind: str, *, held: bool) -> tuple[Exchange, ...]:
    """One side of the split of one kind."""
    return tuple(exchange for exchange in KINDS[kind]() if exchange.held is held)


def general_document(rng: random.Random) -> str:
    """One document: statements about the world, or a question of some kind with its answer."""
    if rng.random() < 0.2:
        return " ".join(facts.statement(*fact) for fact in rng.sample(facts.facts(), rng.randint(2, 5)))
    there = exchanges(rng.choice(list(KINDS)), held=False)
    exchange = rng.choice(there)
    if exchange.held:
        raise AssertionError(f"{exchange.question} is a test question")
    answer = (rng.choice(there) if rng.random() < GUESS else exchange).answer
    thinking = f"<think>\n{exchange.thinking}\n</think>\n" if rng.random() < THINKS else ""
    return f"{SHORT_TEMPLATE.format(question=exchange.question)}{thinking}<answer>{answer}</answer>"
