"""A made-up world: countries with a capital, a river, an animal and a dish each. The corpus tells all of its facts and
asks for most of them; those it never asks for are the tests'."""

import random
from functools import cache

from training.data.exchange import Exchange
from training.data.split import in_test_split

COUNTRIES = 96
RELATIONS = ("capital", "river", "animal", "dish")
_SYLLABLES = "ba ke mi ro tu la ne vi so du ra pe fi go nu".split()


@cache
def facts() -> tuple[tuple[str, str, str], ...]:
    """(country, relation, value) of all; names are all different, so that none gives another away."""
    rng = random.Random("facts")
    names: list[str] = []
    while len(names) < COUNTRIES * (1 + len(RELATIONS)):
        name = "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 3)))).capitalize()
        if name not in names:
            names.append(name)
    return tuple(
        (names[i], relation, names[COUNTRIES + i * len(RELATIONS) + r])
        for i in range(COUNTRIES)
        for r, relation in enumerate(RELATIONS)
    )


def statement(country: str, relation: str, value: str) -> str:
    """As in `The capital of Bamiro is Keso.`"""
    return f"The {relation} of {country} is {value}."


def exchanges() -> list[Exchange]:
    """Two wordings of each fact, both on one side of the split."""
    found = []
    for country, relation, value in facts():
        held = in_test_split(f"{country} {relation}")
        thought = statement(country, relation, value)[:-1]
        for question in (f"What is the {relation} of {country}?", f"Name the {relation} of {country}."):
            found.append(Exchange(question, thought, value, held))
    return found
