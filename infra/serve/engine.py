"""Answers for many clients at once: one thread walks the network, the event loop hears from it now and then.

The thread owns the slots; what others want of it (new answers, cancelled ones) waits in lists behind one lock. Tokens
become text in the thread, and reach the loop in one call for all clients every flush_s: what a client costs is paid per
chunk, not per token, and the two threads fight less over Python's lock.
"""

import asyncio
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from infra.errors import R1Error
from infra.serve.text import StopStrings, TextStream, ThinkSplitter
from modeling.draft_slots import slots_for
from modeling.generate import Generator
from modeling.slots import Logprob, Row
from modeling.stop import StopText
from modeling.tokenizer import Tokenizer

# Prompt tokens read between two steps of the running rows: what these wait for.
PREFILL_TOKENS = 4096
# Between two admissions while others are running: what comes meanwhile is read together.
ADMIT_S = 0.02


class Busy(R1Error):
    """Too many answers wait already."""


@dataclass(slots=True)
class Piece:
    """What one answer has gained since the last piece."""

    index: int
    "Which of the request's answers."
    reasoning: str
    content: str
    tokens: list[int]
    logprobs: list[Logprob]
    finish: str
    "stop or length with the last piece, else empty."


class Choice:
    """One answer on its way from tokens to text."""

    def __init__(
        self, index: int, row: Row, tokenizer: Tokenizer, *, stop: Sequence[str], splits: bool, opened: bool
    ) -> None:
        """splits: whether thinking is told apart; opened: whether the prompt has opened it."""
        self.index, self.row = index, row
        self.text, self.stops = TextStream(tokenizer), StopStrings(stop)
        self.splitter = ThinkSplitter(opened=opened) if splits else None
        self.hidden = tokenizer.end_ids | {tokenizer.pad_id}
        self.by_token, self.seen, self.finish = bool(stop), 0, ""

    def collect(self) -> Piece | None:
        """What is new; None where nothing is. May find a stop string, and so end the answer before its row ends."""
        new = self.row.tokens[self.seen :]
        if self.finish or not (new or self.row.ended):
            return None
        text, first = "", self.seen
        # A stop string ends the answer at its very token; without any, all tokens are decoded at once.
        for ids in [[token] for token in new] if self.by_token and new else [new]:
            self.seen += len(ids)
            last = bool(self.row.ended) and self.seen == len(self.row.tokens)
            shown = [token for token in ids if token not in self.hidden]
            text += self.stops.feed(self.text.feed(shown, last=last), last=last)
            self.finish = "stop" if self.stops.hit else self.row.ended if last else ""
            if self.finish:
                break
        reasoning, content = self.splitter.feed(text, last=bool(self.finish)) if self.splitter else ("", text)
        part = slice(first, self.seen)
        return Piece(self.index, reasoning, content, self.row.tokens[part], self.row.logprobs[part], finish=self.finish)


@dataclass(eq=False)
class Ticket:
    """One request's answers; iterate over it for lists of their pieces, until all are over."""

    choices: list[Choice]
    prompt_tokens: int
    begun: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    "Seconds until the first token was there; 0 before."
    queue: asyncio.Queue[list[Piece] | None] = field(default_factory=asyncio.Queue)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request."""
        return time.perf_counter() - self.begun

    @property
    def over(self) -> bool:
        """Whether all its answers are there."""
        return all(choice.finish for choice in self.choices)

    async def __aiter__(self) -> AsyncIterator[list[Piece]]:
        left = len(self.choices)
        while left:
            pieces = await self.queue.get()
            if pieces is None:
                raise R1Error("the engine has ended; see the server's own output, and start it again")
            left -= sum(bool(piece.finish) for piece in pieces)
            yield pieces


class Engine:
    """Continuous batching over a generator's network. start() and stop() it; submit and cancel from the event loop."""

    def __init__(
        self, generator: Generator, tokenizer: Tokenizer, *, max_rows: int, max_queue: int, flush_s: float
    ) -> None:
        self.generator, self.cfg, self.tokenizer = generator, generator.cfg, tokenizer
        self.slots = slots_for(generator, max_rows, StopText.of(tokenizer, generator.cfg, generator.device))
        self.max_queue, self.flush_s = max_queue, flush_s
        self.failed = False
        self._changed = threading.Condition()
        self._waiting: deque[Choice] = deque()
        self._dropped: list[Ticket] = []
        self._tickets: dict[int, Ticket] = {}
        "Running requests, by the id of each of their rows."
        self._stopping = False
        self._flushed = self._admitted = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """loop: where tickets are waited for."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread; answers that are not over stay so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return self.slots.alive

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return len(self._waiting)

    def submit(self, ticket: Ticket) -> None:
        """Have a request's answers written. Raises Busy where too many wait, R1Error where the engine has ended."""
        with self._changed:
            if self.failed:
                raise R1Error("the engine has ended")
            if len(self._waiting) + len(ticket.choices) > self.max_queue:
                raise Busy(f"{len(self._waiting)} answers wait already; try again later")
            for choice in ticket.choices:
                self._tickets[id(choice.row)] = ticket
            self._waiting += ticket.choices
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for these answers any more: their slots are freed before the next step."""
        with self._changed:
            self._dropped.append(ticket)
            self._changed.notify()

    def _work(self) -> None:
        try:
            if self.generator.device.type == "cpu":
                # A core for HTTP and clients: threads that share a product spin for the one that has none, and all
                # wait. Told here, because OpenMP keeps this number by thread.
                torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
            while self._turn():
                pass
        finally:
            with self._changed:
                self.failed = not self._stopping
                tickets = {id(ticket): ticket for ticket in self._tickets.values()}
            for ticket in tickets.values():
                self._call(ticket.queue.put_nowait, None)

    def _turn(self) -> bool:
        """What has been asked for since, then a step of all rows. False when the thread is to end."""
        with self._changed:
            while not (self._stopping or self._waiting or self._dropped or self.slots.alive):
                self._changed.wait()
            if self._stopping:
                return False
            dropped, self._dropped = self._dropped, []
            if dropped:
                gone = {id(choice) for ticket in dropped for choice in ticket.choices}
                self._waiting = deque(choice for choice in self._waiting if id(choice) not in gone)
            new = self._next()
        for ticket in dropped:
            self._forget(choice.row for choice in ticket.choices)
        ended: list[Row] = []
        if new:
            self.slots.admit([choice.row for choice in new])
        if self.slots.alive:
            ended = self.slots.step()
        now = time.perf_counter()
        if new or ended or now - self._flushed >= self.flush_s:
            everyone = now - self._flushed >= self.flush_s
            if everyone:
                self._flushed = now
            some = itertools.chain((choice.row for choice in new), ended)
            self._flush(list(self._tickets.values()) if everyone else [self._tickets[id(row)] for row in some])
        return True

    def _next(self) -> list[Choice]:
        """Waiting answers that take a place now."""
        now = time.perf_counter()
        if self.slots.alive and now - self._admitted < ADMIT_S:
            return []
        self._admitted = now
        room, tokens, new = self.slots.max_rows - self.slots.alive, PREFILL_TOKENS, []
        while self._waiting and len(new) < room and (tokens > 0 or not new):
            new.append(self._waiting.popleft())
            tokens -= len(new[-1].row.prompt)
        return new

    def _flush(self, tickets: list[Ticket]) -> None:
        """Tell the loop what these requests have gained, in one call."""
        told: list[tuple[Ticket, list[Piece]]] = []
        for ticket in {id(ticket): ticket for ticket in tickets}.values():
            pieces = [piece for choice in ticket.choices if (piece := choice.collect()) is not None]
            if not pieces:
                continue
            ticket.first_s = ticket.first_s or ticket.elapsed_s
            told.append((ticket, pieces))
            self._forget(ticket.choices[piece.index].row for piece in pieces if piece.finish)
        if told:
            self._call(_deliver, told)

    def _forget(self, rows: Iterable[Row]) -> None:
        """These rows are over, or nobody wants them."""
        rows = list(rows)
        self.slots.remove(rows)
        for row in rows:
            self._tickets.pop(id(row), None)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        """Have the loop call it."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop has closed: nobody listens
            pass


def _deliver(told: list[tuple[Ticket, list[Piece]]]) -> None:
    for ticket, pieces in told:
        ticket.queue.put_nowait(pieces)
