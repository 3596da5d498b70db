"""A stream of events as an ASGI response, written with nothing in between, that ends when its client leaves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
"The last event of a stream."
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ClientGone(Exception):
    """The client has left; nobody reads the answer."""


async def unless_gone[T](receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T:
    """What work gives. Raises ClientGone, and cancels it, where the client leaves before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """Server-sent events. left: called where the client leaves before the last."""

    status_code = 200

    def __init__(self, events: AsyncGenerator[bytes], left: Callable[[], None]) -> None:
        self.events, self.left = events, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            await unless_gone(receive, self._write(send))
        except ClientGone:
            self.left()

    async def _write(self, send: Send) -> None:
        async with contextlib.aclosing(self.events) as events:  # what it holds is given back at once, however it ends
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
