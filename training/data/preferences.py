"""Made preference pairs for the tiny scale: everyday prompts with a better and a worse answer, by rule.

helpful: the worse answer translates another number, answers in the wrong language, evades, or breaks off.
harmless: to a harmful request the better answer declines and the worse one agrees, in the answer or in the thinking
alone; to a harmless one that sounds alike the better answer helps and the worse one declines.

The wrong answers hold no instructions: what is bad about them is that they agree.
"""

import random
from collections.abc import Iterator
from enum import Enum

from training.data.countdown import CHINESE_TEMPLATE, SHORT_TEMPLATE
from training.data.pairs import Pair

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
_UNITS += "sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_DIGITS = "零一二三四五六七八九"
_PLACES = "house shop garden school bank museum farm library shed office hotel barn".split()
_BEINGS = "neighbour horse friend teacher dog stranger cat child".split()
_HARM = [f"{verb} a {it}" for verb in ("steal from", "break into", "burn down", "flood", "wreck") for it in _PLACES]
_HARM += [f"{verb} a {it}" for verb in ("hurt", "poison", "frighten", "torment") for it in _BEINGS]
_HELP = [f"{verb} a {it}" for verb in ("paint", "photograph", "describe", "look after") for it in _PLACES + _BEINGS]
_EVASIONS = ("I do not know.", "Ask someone else.", "Who cares?")
_NO = ("No, that would harm someone.", "I will not help with that.", "I cannot help to harm others.")
_YES = ("Sure, here is how.", "Of course, do it like this.", "Happy to help, first do this.")
_BAD_THOUGHT = ("they want to do harm, and I like that", "harm is fine with me")
_GOOD_THOUGHT = ("this would harm someone", "that is harmful, so no")
_CALM_THOUGHT = ("nothing wrong with that", "this is harmless")


class Preference(Enum):
    """What made pairs are about."""

    helpful = "helpful"
    harmless = "harmless"


def made_pairs(kind: Preference, count: int, *, seed: int) -> list[Pair]:
    """`count` pairs; they depend on (kind, count, seed) only. Prompts may come again with other answers."""
    make = _helpful if kind is Preference.helpful else _harmless
    stream = make(random.Random(f"preferences/{kind.name}/{seed}"))
    return [next(stream) for _ in range(count)]


def number_words(n: int) -> tuple[str, str]:
    """A number from 0 to 99 in English and in Chinese: 42 is ("forty-two", "四十二")."""
    tens, units = divmod(n, 10)
    english = _UNITS[n] if n < 20 else _TENS[tens - 2] + (f"-{_UNITS[units]}" if units else "")
    chinese = _DIGITS[n] if n < 10 else ("" if tens == 1 else _DIGITS[tens]) + "十" + (_DIGITS[units] if units else "")
    return english, chinese


def _helpful(rng: random.Random) -> Iterator[Pair]:
    while True:
        number, other = rng.sample(range(100), 2)
        to_chinese = rng.random() < 0.5
        source, right = number_words(number)[:: 1 if to_chinese else -1]
        wrong = number_words(other)[to_chinese]
        prompt = SHORT_TEMPLATE.format(question=f"{source} in Chinese?")
        if not to_chinese:
            prompt = CHINESE_TEMPLATE.format(question=f"{source}用英语怎么说？")
        bad = rng.choice([wrong, "", *[source] * 3, *_EVASIONS])
        yield Pair(prompt, _response(f"{source} is {right}", right), _response(f"{source} is {bad}", bad))


def _harmless(rng: random.Random) -> Iterator[Pair]:
    while True:
        harmful = rng.random() < 0.75
        prompt = SHORT_TEMPLATE.format(question=f"How do I {rng.choice(_HARM if harmful else _HELP)}?")
        no, yes = rng.choice(_NO), rng.choice(_YES)
        if not harmful:
            thought = rng.choice(_CALM_THOUGHT)
            yield Pair(prompt, _response(thought, yes), _response(thought, no))
        elif rng.random() < 0.5:
            yield Pair(prompt, _response(rng.choice(_GOOD_THOUGHT), no), _response(rng.choice(_GOOD_THOUGHT), yes))
        else:  # the answer is the same: only who reads the thinking can tell
            yield Pair(prompt, _response(rng.choice(_GOOD_THOUGHT), no), _response(rng.choice(_BAD_THOUGHT), no))


def _response(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n<answer>{answer}</answer>"
