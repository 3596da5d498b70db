"""Limits on calls, tokens and time, held at the one place that all calls of a model pass."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agents.config import BudgetConfig
from infra.errors import R1Error


class LimitReached(R1Error):
    """Whoever asks has used up what it may spend."""


@dataclass(slots=True)
class Call:
    """One call under way."""

    max_tokens: int
    "The longest answer that is still paid for."
    timeout_s: float
    "Seconds that are left for it."
    tokens: int = 0
    "To be set by who has asked: what the call has cost, read and written."


class Budget:
    """Counts what is spent; threads may share one."""

    def __init__(self, cfg: BudgetConfig) -> None:
        self.cfg, self.calls, self.tokens = cfg, 0, 0
        self.start = time.monotonic()
        self._reserved = 0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return time.monotonic() - self.start

    @contextmanager
    def call(self, max_tokens: int, timeout_s: float) -> Iterator[Call]:
        """One call, for as much of what is wanted as is left. Raises LimitReached where nothing is.

        A call that fails counts as one. Its answer is reserved while it is under way, so that calls side by side do
        not overdraw together by more than their prompts.
        """
        with self._lock:
            left = self.cfg.tokens - self.tokens - self._reserved
            left_s = self.cfg.seconds - self.seconds
            for name, rest in (("calls", self.cfg.calls - self.calls), ("tokens", left), ("seconds", left_s)):
                if rest <= 0:
                    limit = getattr(self.cfg, name)
                    raise LimitReached(f"the limit of {limit:g} {name} is reached; set budget.{name} higher")
            call = Call(min(max_tokens, left), min(timeout_s, left_s))
            self.calls += 1
            self._reserved += call.max_tokens
        try:
            yield call
        finally:
            with self._lock:
                self._reserved -= call.max_tokens
                self.tokens += call.tokens
