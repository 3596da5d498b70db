"""Requests answered by another compatible server; thinking is told apart where it does not do that itself.

Everything else passes as it is, errors and settings that only the other server knows included.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive

from infra.serve.metrics import Metrics
from infra.serve.protocol import Refused
from infra.serve.streaming import DONE, EventStream, unless_gone
from infra.serve.text import ThinkSplitter

_NAMES = ("reasoning_content", "reasoning")
"By which servers tell thinking apart."
_PATIENCE = httpx.Timeout(30.0, read=3600.0)


class ProxyBackend:
    """A thin front. url: the other server's address; "/v1" may stand at its end. extra: settings that requests get
    where they do not have them. opened: whether the model's prompts open the thinking."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        key: str = "",
        extra: dict[str, Any] | None = None,
        opened: bool = False,
    ) -> None:
        self.url, self.metrics = url.rstrip("/").removesuffix("/v1"), metrics
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.extra, self.opened = extra or {}, opened
        self.client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.client = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=_PATIENCE, limits=limits)

    async def stop(self) -> None:
        await self.client.aclose()

    async def healthy(self) -> bool:
        try:
            return (await self.client.get("/v1/models", timeout=5.0)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def models(self) -> dict[str, Any]:
        """The other server's."""
        told = _parsed(await self._ask("GET", "/v1/models", None))
        if not isinstance(told.get("data"), list) or not all(isinstance(one, dict) for one in told["data"]):
            raise Refused(f"{self.url} names no models", status=502)
        return told

    async def chat(self, body: Any, receive: Receive) -> ASGIApp:
        """POST /v1/chat/completions."""
        return await self._pass_on("/v1/chat/completions", body, receive, splits=True)

    async def completions(self, body: Any, receive: Receive) -> ASGIApp:
        """POST /v1/completions."""
        return await self._pass_on("/v1/completions", body, receive, splits=False)

    async def _pass_on(self, path: str, body: Any, receive: Receive, *, splits: bool) -> ASGIApp:
        if not isinstance(body, dict):
            raise Refused("the body has to be a JSON object")
        body = self.extra | body
        if body.get("stream"):
            response = await self._ask("POST", path, body, stream=True)
            return EventStream(_events(response, splits=splits, opened=self.opened), self.metrics.cancelled.inc)
        response = await unless_gone(receive, self._ask("POST", path, body))
        if not splits:
            return Response(response.content, media_type="application/json")
        told = _parsed(response)
        for choice in _choices(told):
            _split_whole(choice)
        return Response(json.dumps(told), media_type="application/json")

    async def _ask(self, method: str, path: str, body: Any, *, stream: bool = False) -> httpx.Response:
        """A good answer. Raises Refused with the other server's own error, or 502 where it is not to be had."""
        request = self.client.build_request(method, path, json=body)
        try:
            response = await self.client.send(request, stream=stream)
            if response.status_code < 400:
                return response
            await response.aread()
            await response.aclose()
        except httpx.HTTPError as error:
            problem = f"{self.url} does not answer ({type(error).__name__}); see whether it runs"
            raise Refused(problem, status=502, code="upstream_unreachable") from None
        raise _their_error(response)


def _their_error(response: httpx.Response) -> Refused:
    try:
        told = response.json()
    except ValueError:
        told = {}
    error = told.get("error", told) if isinstance(told, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    message = str(error.get("message") or f"the upstream server says {response.status_code}")
    param, code = error.get("param"), error.get("code")
    refused = Refused(message, status=response.status_code, param=param, code=None if code is None else str(code))
    refused.kind = str(error.get("type") or refused.kind)
    return refused


def _parsed(response: httpx.Response) -> dict[str, Any]:
    try:
        told = response.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Refused("the upstream server's answer is no JSON object", status=502)
    return told


def _choices(told: Any) -> list[dict[str, Any]]:
    choices = told.get("choices") if isinstance(told, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _split_whole(choice: dict[str, Any]) -> None:
    """Thinking of a whole answer into reasoning_content. A template may have opened it: then only its end is there."""
    message = choice.get("message")
    if not isinstance(message, dict) or any(message.get(name) for name in _NAMES):
        return
    text = message.get("content")
    if not isinstance(text, str) or "</think>" not in text and "<think>" not in text:
        return
    reasoning, content = ThinkSplitter(opened="<think>" not in text).feed(text, last=True)
    message |= {"content": content} | ({"reasoning_content": reasoning} if reasoning else {})


async def _events(response: httpx.Response, *, splits: bool, opened: bool) -> AsyncGenerator[bytes]:
    """The other server's events, thinking told apart."""
    splitters: dict[Any, ThinkSplitter | None] = {}
    try:
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                yield DONE
                return
            if splits:
                data = _split_event(data, splitters, opened)
            yield f"data: {data}\n\n".encode()
    except httpx.HTTPError as error:
        told = Refused(f"the upstream server broke off ({type(error).__name__})", status=502).body
        yield f"data: {json.dumps(told)}\n\n".encode()
    finally:
        await response.aclose()


def _split_event(data: str, splitters: dict[Any, ThinkSplitter | None], opened: bool) -> str:
    try:
        told = json.loads(data)
    except ValueError:
        return data
    changed = False
    for choice in _choices(told):
        delta, index = choice.get("delta"), choice.get("index")
        if not isinstance(delta, dict):
            continue
        if any(delta.get(name) for name in _NAMES):
            splitters[index] = None  # it does so itself
        splitter = splitters.setdefault(index, ThinkSplitter(opened=opened))
        last = choice.get("finish_reason") is not None
        text = delta.get("content")
        if splitter is None or not (isinstance(text, str) or last):
            continue
        reasoning, content = splitter.feed(text or "", last=last)
        changed = True
        delta["content"] = content
        if reasoning:
            delta["reasoning_content"] = reasoning
    return json.dumps(told) if changed else data
