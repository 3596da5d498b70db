"""An answer token by token, coloured by what sampler and trainer thought of each. Pure: values in, HTML out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.shown import SHOWN_CHARACTERS, escaped

SHADES = 6
COLUMNS = ("tokens", "sampler_logprobs", "entropies", "trainer_logprobs")


@dataclass(frozen=True, slots=True)
class Kind:
    """What colours a token."""

    about: str
    full: float
    "The value of the darkest shade, the same for every answer, so that answers compare."


KINDS = {
    "surprise": Kind("minus the sampler's logprob, nats: darker is less likely", 5.0),
    "entropy": Kind("entropy of the sampler's distribution, nats: darker is less sure", 2.5),
    "difference": Kind("|trainer's - sampler's| logprob: darker is further apart", 0.5),
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one answer, [response] each; None is what was not recorded."""

    tokens: list[str]
    sampler_logprobs: list[float] | None = None
    entropies: list[float] | None = None
    trainer_logprobs: list[float] | None = None

    def values(self, kind: str) -> list[float] | None:
        """[response] of one of KINDS; None where it was not recorded."""
        sampler, trainer = self.sampler_logprobs, self.trainer_logprobs
        if kind == "entropy":
            return self.entropies
        if kind == "difference":
            return None if not (sampler and trainer) else [abs(a - b) for a, b in zip(trainer, sampler, strict=True)]
        return None if not sampler else [-value for value in sampler]


def of_row(answer) -> Tokens | None:
    """The tokens of a row of a samples file, read with COLUMNS; None where they were not recorded."""
    tokens = answer["tokens"]
    if not isinstance(tokens, list) or not tokens:
        return None
    numbers = {name: _numbers(answer[name], len(tokens)) for name in COLUMNS[1:]}
    return Tokens([token if isinstance(token, str) else "" for token in tokens], **numbers)


def _numbers(values: object, count: int) -> list[float] | None:
    """Numbers for each token, or none at all."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return [value if isinstance(value, int | float) and math.isfinite(value) else math.nan for value in values]


def strip(tokens: Sequence[str], values: Sequence[float] | None, kind: str) -> str:
    """The tokens as spans in shades, for a text block; a value is read when the pointer rests on its token."""
    parts, shown = [], 0
    for index, token in enumerate(tokens):
        shown += len(token)
        if shown > SHOWN_CHARACTERS:
            parts.append(f'<span class="r1-note">\n[cut here: {len(tokens) - index:,} more tokens]</span>')
            break
        value = math.nan if values is None else values[index]
        text = escaped(token.replace("\n", "↵\n")) or '<span class="r1-note">∅</span>'
        if math.isnan(value):
            parts.append(f'<span class="r1-unknown" title="not recorded">{text}</span>')
        else:
            parts.append(f'<span class="r1-v{shade(value, kind)}" title="{value:.4g}">{text}</span>')
    return f'<span class="r1-tokens">{"".join(parts)}</span>'


def shade(value: float, kind: str) -> int:
    """0 (nothing) to SHADES."""
    return min(SHADES, max(0, round(SHADES * value / KINDS[kind].full)))


def summary(values: Sequence[float]) -> str:
    """Mean and largest, for the line above the strip."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not recorded"
    return f"mean {sum(known) / len(known):.4g}, largest {max(known):.4g}, {len(known)} tokens"
