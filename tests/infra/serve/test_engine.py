"""The engine's thread with a network that writes B after B: places, the queue, cancelled requests, its own death."""

import asyncio
import time
from types import SimpleNamespace

import pytest
import torch

from infra.errors import R1Error
from infra.serve import engine as module
from infra.serve.engine import Busy, Choice, Engine, Ticket

TOKENIZER = SimpleNamespace(end_ids=set(), pad_id=0, decode=lambda ids: bytes(ids).decode())


class Letters:
    """Slots as the engine knows them: an A for each row that joins, then B until its limit."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.rows, self.broken = max_rows, [], False

    @property
    def alive(self) -> int:
        return len(self.rows)

    def admit(self, rows: list) -> None:
        self.rows += rows
        assert len(self.rows) <= self.max_rows
        for row in rows:
            row.tokens.append(ord("A"))

    def step(self) -> list:
        if self.broken:
            raise ZeroDivisionError
        time.sleep(0.002)
        for row in self.rows:
            row.tokens.append(ord("B"))
            row.ended = "length" if len(row.tokens) >= row.limit else ""
        over = [row for row in self.rows if row.ended]
        self.rows = [row for row in self.rows if not row.ended]
        return over

    def remove(self, rows) -> None:
        gone = {id(row) for row in rows}
        self.rows = [row for row in self.rows if id(row) not in gone]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(module, "slots_for", lambda generator, max_rows, stop_text: Letters(max_rows))
    monkeypatch.setattr(module, "StopText", SimpleNamespace(of=lambda *given: None))
    generator = SimpleNamespace(cfg=None, device=torch.device("cpu"))
    return Engine(generator, TOKENIZER, max_rows=2, max_queue=6, flush_s=0.01)


def ticket(limit: int, count: int = 1, stop: tuple[str, ...] = ()) -> Ticket:
    rows = [SimpleNamespace(prompt=[1], tokens=[], logprobs=[], ended="", limit=limit) for _ in range(count)]
    return Ticket([Choice(i, row, TOKENIZER, stop=stop, splits=True, opened=False) for i, row in enumerate(rows)], 1)


async def read(asked: Ticket) -> list[str]:
    texts = [""] * len(asked.choices)
    async for pieces in asked:
        for piece in pieces:
            texts[piece.index] += piece.content
    return texts


def test_rows_take_turns_and_those_of_clients_that_left_do_not(engine: Engine) -> None:
    async def clients() -> None:
        running, endless, waiting, unread = ticket(50, 2), ticket(10**6), ticket(30), ticket(10**6, 2)
        for asked in (running, endless, waiting, unread):
            engine.submit(asked)
        with pytest.raises(Busy):
            engine.submit(ticket(5, 2))
        engine.start(asyncio.get_running_loop())
        await asyncio.sleep(0.02)
        engine.cancel(unread)
        assert await read(running) == ["A" + 49 * "B"] * 2
        assert await read(waiting) == ["A" + 29 * "B"]
        assert engine.running == 1
        engine.cancel(endless)
        assert await read(ticket_after(engine)) == ["A"]
        assert engine.running == engine.waiting == 0
        engine.stop()

    def ticket_after(engine: Engine) -> Ticket:
        asked = ticket(10**6, stop=("BBB", "never"))
        engine.submit(asked)
        return asked

    asyncio.run(asyncio.wait_for(clients(), 60))


def test_where_the_engine_dies_every_client_hears_of_it(engine: Engine) -> None:
    async def clients() -> None:
        engine.start(asyncio.get_running_loop())
        asked = ticket(10**6, 2)
        engine.submit(asked)
        engine.slots.broken = True
        with pytest.raises(R1Error, match="has ended"):
            await read(asked)
        assert engine.failed
        with pytest.raises(R1Error, match="has ended"):
            engine.submit(ticket(3))
        engine.stop()

    asyncio.run(asyncio.wait_for(clients(), 60))
