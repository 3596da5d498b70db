"""Continuous batching over the latent cache: rows join and leave a running batch at any step, each with settings of its
own. A row has the tokens that Generator gives for its prompt, seed and settings alone (rounding apart).

Rows live in slots. A freed slot is filled in place; where none is free the batch is gathered anew, larger or smaller.
What belongs to one row is kept on the host: a few dozen rows cost microseconds there, beside milliseconds of a step.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import ConfigError
from modeling.decode import LatentCache
from modeling.draw import distribution, draw
from modeling.generate import Generator
from modeling.sampling import SamplingConfig
from modeling.stop import StopText
from modeling.thinking import ThinkingBudget

# Slots without a row, as a share of all: beyond it the batch is gathered anew, which costs about a step.
EMPTY_SHARE = 0.25
# Random numbers drawn ahead for a row.
AHEAD = 128


class Numbers:
    """The numbers in [0, 1) that decide a row's tokens: those of Generator for the same seed, drawn as they are used.

    at(i): the `width` numbers of token i.
    """

    def __init__(self, seed: int, width: int) -> None:
        self._random, self._width = np.random.Generator(np.random.Philox(key=seed % 2**128)), width
        self._drawn: list[list[float]] = []

    def at(self, i: int) -> list[float]:
        while i >= len(self._drawn):
            self._drawn += self._random.random((AHEAD, self._width), dtype=np.float32).tolist()
        return self._drawn[i]


@dataclass(slots=True)
class Logprob:
    """A token as the network saw it, before temperature and top-p."""

    value: float
    "Log-probability of the token that stands."
    top: list[tuple[int, float]]
    "The likeliest tokens with theirs, the likeliest first."


@dataclass(kw_only=True, slots=True, eq=False)
class Row:
    """One answer: what is asked for, and what is there of it."""

    prompt: list[int]
    sampling: SamplingConfig
    "temperature, top_p, and max_response_tokens, which the room left in the context cuts."
    seed: int
    stop_ids: frozenset[int]
    "Tokens after which it is over; empty: it runs to its limit, whatever it says."
    top_logprobs: int = -1
    "How many likeliest tokens are told beside each token's own logprob; -1: no logprobs at all."
    budget: ThinkingBudget | None = None
    "Ends the thinking by force."
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    ended: str = ""
    "stop or length, once it is over."
    limit: int = 0
    "Tokens after which it is cut."
    numbers: Numbers | None = None
    forced: deque[int] = field(default_factory=deque)
    "Tokens that come next, whatever is drawn."
    said: int = 0
    "How much of the model's stop text it ends with (StopText)."


@dataclass(slots=True)
class _Settings:
    """How the rows of a batch are drawn."""

    temperature: Tensor | None
    "[rows, 1], 1 where a row is greedy; None where all are 1."
    groups: list[tuple[SamplingConfig, Tensor | None]]
    "Rows that are drawn alike once temperature is applied; None for all of them."


class Slots:
    """A running batch of at most max_rows rows."""

    width = 1
    "Random numbers a token."

    def __init__(self, generator: Generator, max_rows: int, stop_text: StopText | None = None) -> None:
        self.decoder, self.cfg, self.device = generator.decoder, generator.cfg, generator.device
        self.max_rows, self.stop_text = max_rows, stop_text
        self.said = stop_text.table.cpu().tolist() if stop_text is not None else []
        self.rows: list[Row | None] = []
        self.alive = 0
        "Slots with a row."
        self.cache: LatentCache | None = None
        self.state: dict[str, Tensor] = {}
        "What a subclass keeps of each slot beside the cache, [slots, ...] each."
        self._settings: _Settings | None = None

    @torch.inference_mode()
    def admit(self, rows: list[Row]) -> None:
        """Read the rows' prompts, equal ones once, and draw the first token of each; those that go on take a slot.

        Raises ConfigError for more rows than there is room for.
        """
        if len(rows) > self.max_rows - self.alive:
            raise ConfigError("rows", len(rows), f"{self.max_rows - self.alive} slots are free", "wait")
        unique: dict[tuple[int, ...], int] = {}
        places = [unique.setdefault(tuple(row.prompt), len(unique)) for row in rows]
        logits, part = self.decoder.prefill([list(prompt) for prompt in unique])
        for row in rows:
            row.limit = min(row.sampling.max_response_tokens, self.cfg.max_position_embeddings - len(row.prompt))
            row.numbers = Numbers(row.seed, self.width)
            row.forced.extend(row.budget.at_first() if row.budget is not None else ())
        self._take(rows, self._choose(logits[places], rows, self._settings_of(rows)))
        staying = [i for i, row in enumerate(rows) if not row.ended]
        if not staying:
            return
        joining, at = [rows[i] for i in staying], torch.tensor([places[i] for i in staying], device=self.device)
        state = self._begin(joining, part, at)
        empty = [slot for slot, row in enumerate(self.rows) if row is None][: len(joining)]
        if self.cache is not None and len(empty) == len(joining):
            self._fill(empty, joining, part, at, state)
        else:
            self._gather([(part, at)], joining, state)
        self.alive += len(joining)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One more token (or two, where a drafter helps) in every row -> the rows that are over; they have left."""
        if len(self.rows) - self.alive > EMPTY_SHARE * len(self.rows):
            self._gather([], [], {})
        self._advance()
        over = [slot for slot, row in enumerate(self.rows) if row is not None and row.ended]
        ended = [self.rows[slot] for slot in over]
        self._free(over)
        return ended

    @torch.inference_mode()
    def remove(self, rows: Iterable[Row]) -> None:
        """Free the slots of rows that nobody waits for; those that have none are passed over."""
        gone = {id(row) for row in rows}
        self._free([slot for slot, row in enumerate(self.rows) if id(row) in gone])

    def _advance(self) -> None:
        """Draw one token in every row."""
        last = torch.tensor([row.tokens[-1] if row is not None else 0 for row in self.rows], device=self.device)
        logits = self.decoder.step(last, self.cache)
        self._take(self.rows, self._choose(logits, self.rows, self.settings))

    @property
    def settings(self) -> _Settings:
        """How the slots are drawn."""
        if self._settings is None:
            self._settings = self._settings_of(self.rows)
        return self._settings

    def _choose(self, logits: Tensor, rows: list[Row | None], settings: _Settings) -> list[int]:
        """The next token of each row, noted with its logprob where that is asked for; logits are overwritten."""
        asking, raw = self._raw(logits, rows)
        uniform = self._uniform(rows)[:, -1:].contiguous()
        if settings.temperature is not None:
            logits.div_(settings.temperature)
        tokens = logits.new_empty(len(rows), dtype=torch.long)
        for sampling, chosen in settings.groups:
            if chosen is None:
                tokens = draw(logits, uniform, sampling)[0]
            else:
                tokens[chosen] = draw(logits[chosen], uniform[chosen], sampling)[0]
        ids = self._forced(rows, tokens.tolist())
        self._note(asking, raw, rows, ids)
        return ids

    def _distribution(self, logits: Tensor, settings: _Settings) -> Tensor:
        """The probabilities that tokens are drawn from, [rows, vocab]; logits are overwritten."""
        if settings.temperature is not None:
            logits.div_(settings.temperature)
        if settings.groups[0][1] is None:
            return distribution(logits, settings.groups[0][0])
        for sampling, chosen in settings.groups:
            logits[chosen] = distribution(logits[chosen], sampling)
        return logits

    def _settings_of(self, rows: list[Row | None]) -> _Settings:
        groups: dict[tuple[bool, float], list[int]] = {}
        temperatures = []
        for number, row in enumerate(rows):
            # An empty slot is drawn like its neighbours, so that it makes no group of its own.
            sampling = row.sampling if row is not None else next(row for row in rows if row is not None).sampling
            greedy = sampling.temperature == 0
            groups.setdefault((greedy, 1.0 if greedy else sampling.top_p), []).append(number)
            temperatures.append([1.0 if greedy else sampling.temperature])
        plain = all(value == 1 for (value,) in temperatures)
        alike = [
            (
                SamplingConfig(temperature=0.0 if greedy else 1.0, top_p=top_p),
                None if len(groups) == 1 else torch.tensor(chosen, device=self.device),
            )
            for (greedy, top_p), chosen in groups.items()
        ]
        return _Settings(None if plain else torch.tensor(temperatures, device=self.device), alike)

    def _uniform(self, rows: list[Row | None]) -> Tensor:
        """The numbers that decide each row's next token, [rows, width]; empty slots have zeros."""
        nothing = [0.0] * self.width
        numbers = [nothing if row is None else row.numbers.at(len(row.tokens)) for row in rows]
        return torch.tensor(numbers, dtype=torch.float32, device=self.device)

    @staticmethod
    def _raw(logits: Tensor, rows: list[Row | None]) -> tuple[list[int], Tensor | None]:
        """-> the rows that ask for logprobs, and all their log-probabilities [asking, vocab]."""
        asking = [i for i, row in enumerate(rows) if row is not None and row.top_logprobs >= 0]
        return asking, torch.log_softmax(logits[asking], -1) if asking else None

    @staticmethod
    def _note(asking: list[int], raw: Tensor | None, rows: list[Row | None], ids: list[int]) -> None:
        for line, i in enumerate(asking):
            row = rows[i]
            top = raw[line].topk(min(row.top_logprobs, raw.shape[1])) if row.top_logprobs else None
            likeliest = [] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            row.logprobs.append(Logprob(float(raw[line, ids[i]]), likeliest))

    @staticmethod
    def _forced(rows: list[Row | None], ids: list[int]) -> list[int]:
        return [
            row.forced.popleft() if row is not None and row.forced else token
            for row, token in zip(rows, ids, strict=True)
        ]

    def _take(self, rows: Iterable[Row | None], ids: Iterable[int]) -> None:
        """Every row has one more token; it may be the last."""
        for row, token in zip(rows, ids, strict=True):
            if row is None:
                continue
            row.tokens.append(token)
            if self.said:
                row.said = self.said[row.said][token]
            # A row without stop tokens heeds the stop text no more than them.
            if token in row.stop_ids or (self.said and row.stop_ids and row.said == self.stop_text.end):
                row.ended = "stop"
            elif len(row.tokens) >= row.limit:
                row.ended = "length"
            elif row.budget is not None:
                row.forced.extend(row.budget.after(token))

    def _begin(self, rows: list[Row], part: Any, at: Tensor) -> dict[str, Tensor]:
        """state of rows that join; part: the cache that their prompts are in, at [rows] of it."""
        return {}

    def _fill(self, slots: list[int], rows: list[Row], part: LatentCache, at: Tensor, state: dict[str, Tensor]) -> None:
        """The rows take empty slots; nothing else moves."""
        used, cache = max(part.longest), self.cache
        cache.reserve(used)
        cache.latents[:, slots, :used] = part.latents[:, at, :used]
        cache.lengths[slots] = part.lengths[at]
        cache.keep(cache.lengths)
        for name, value in state.items():
            self.state[name][slots] = value
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot] = row
        self._settings = None

    def _gather(self, parts: list[tuple[LatentCache, Tensor]], rows: list[Row], state: dict[str, Tensor]) -> None:
        """A batch of the rows that are there and of new ones, without an empty slot."""
        kept = [slot for slot, row in enumerate(self.rows) if row is not None]
        if kept:
            at = torch.tensor(kept, device=self.device)
            parts = [(self.cache, at), *parts]
            before = {name: value[at] for name, value in self.state.items()}
            state = {name: torch.cat([before[name], state[name]]) if state else before[name] for name in before}
        self.cache, self.state = LatentCache.gather(parts), state
        self.rows = [self.rows[slot] for slot in kept] + rows
        self._settings = None

    def _free(self, slots: list[int]) -> None:
        if not slots:
            return
        for slot in slots:
            self.rows[slot] = None
        self.alive -= len(slots)
        if not self.alive:
            self.rows, self.cache, self.state = [], None, {}
        else:  # an empty slot must not lengthen what the others attend over; a drafter looks two tokens back
            self.cache.lengths[slots] = 2
            self.cache.keep(self.cache.lengths)
        self._settings = None
