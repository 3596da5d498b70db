"""Numbers below a thousand in English and in Chinese words, and the questions that ask for the other language."""

from training.data.exchange import Exchange
from training.data.split import in_test_split

LIMIT = 1000
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_DIGITS = "零一二三四五六七八九"


def english(n: int) -> str:
    """As in `three hundred forty-two`; n from 0 to 999."""
    if n < 20:
        return _SMALL[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_SMALL[n % 10]}" if n % 10 else "")
    return f"{_SMALL[n // 100]} hundred" + (f" {english(n % 100)}" if n % 100 else "")


def chinese(n: int) -> str:
    """As in 三百四十二, 一百零五, 十二; n from 0 to 999."""
    if n < 10:
        return _DIGITS[n]
    if n < 100:
        return ("" if n < 20 else _DIGITS[n // 10]) + "十" + (_DIGITS[n % 10] if n % 10 else "")
    rest = n % 100
    if rest == 0:
        return f"{_DIGITS[n // 100]}百"
    if rest < 10:
        return f"{_DIGITS[n // 100]}百零{_DIGITS[rest]}"
    return f"{_DIGITS[n // 100]}百{'一' if rest < 20 else ''}{chinese(rest)}"


def exchanges() -> list[Exchange]:
    """Both directions of every number; the question is in the language it translates from, its thinking too."""
    found = []
    for n in range(LIMIT):
        held = in_test_split(str(n))  # both directions on one side
        one, other = english(n), chinese(n)
        found.append(Exchange(f"Write {one} in Chinese.", f"that is {n}", other, held, "en", {"n": n, "to": "zh"}))
        found.append(Exchange(f"用英文写{other}。", f"这是 {n}", one, held, "zh", {"n": n, "to": "en"}))
    return found
