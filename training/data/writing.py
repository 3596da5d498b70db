"""Short writing under constraints that can be counted: a sentence of so many words that holds given ones."""

import random

from training.data.exchange import Exchange
from training.data.split import in_test_split

NOUNS = (
    "river stone garden window horse bread winter letter song child teacher door boat cloud tree road lamp bird hill "
    "book"
).split()
_ADJECTIVES = "old small quiet bright cold green slow kind deep long".split()
_VERBS = "finds likes watches needs holds follows sees keeps".split()
_ADVERBS = "today again slowly often here".split()
LENGTHS = range(3, 9)


def sentence(length: int, nouns: list[str], rng: random.Random) -> str:
    """A sentence of 3 to 8 words, no word twice, with one or (from 5 words on) two nouns.

    sentence(5, ["river", "stone"], rng) may be `The river likes a stone.`
    """
    one, other = rng.sample(_ADJECTIVES, 2)
    verb, adverb = rng.choice(_VERBS), rng.choice(_ADVERBS)
    first = nouns[0]
    if length < 5:
        words = ["the", one, first, verb] if length == 4 else ["the", first, verb]
    elif length == 5 and len(nouns) == 1:
        words = ["the", one, first, verb, adverb]
    else:
        second = nouns[1] if len(nouns) > 1 else rng.choice([n for n in NOUNS if n != first])
        words = ["the", first, verb, "a", second]
        words = words[:1] + [one] + words[1:] if length > 5 else words
        words = words[:-1] + [other] + words[-1:] if length > 6 else words
        words += [adverb] if length > 7 else []
    return " ".join(words).capitalize() + "."


def exchanges() -> list[Exchange]:
    """One noun with 3 to 8 words, two nouns with 5 to 8."""
    found = []
    for i, first in enumerate(NOUNS):
        for nouns in ([first], *([first, second] for second in NOUNS[i + 1 :])):
            for length in LENGTHS if len(nouns) == 1 else range(5, 9):
                question = f"Write a sentence of {length} words with {' and '.join(nouns)}."
                answer = sentence(length, nouns, random.Random(question))
                thought = " ".join(f"{word} {n}" for n, word in enumerate(answer[:-1].lower().split(), 1))
                meta = {"length": length, "words": nouns}
                found.append(Exchange(question, thought, answer, in_test_split(question), "en", meta))
    return found
