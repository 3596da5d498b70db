"""The HTTP side: routes, the key, errors in OpenAI's shape, health and metrics. Who answers is a backend's matter."""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from infra.serve.metrics import Metrics
from infra.serve.protocol import Refused
from infra.serve.streaming import ClientGone

MAX_BODY = 16 << 20
"Bytes of a request."


class Backend(Protocol):
    """Who answers. chat and completions raise Refused; they give a response that may stream."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def healthy(self) -> bool: ...

    async def models(self) -> dict[str, Any]: ...

    async def chat(self, body: Any, receive: Receive) -> ASGIApp: ...

    async def completions(self, body: Any, receive: Receive) -> ASGIApp: ...


def build(backend: Backend, metrics: Metrics, *, key: str, hosts: tuple[str, ...] = ()) -> FastAPI:
    """The application. key: what clients have to give, empty for none. hosts: names by which alone we may be addressed,
    so that no page in a browser reaches a server of this machine by a name of its own; empty for any."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        try:
            yield
        finally:
            await backend.stop()

    # Its page of documentation would fetch scripts from elsewhere.
    app = FastAPI(title="r1lab", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    def admit(request: Request) -> None:
        """Raise Refused where the request may not come in."""
        if hosts and (request.url.hostname or "") not in hosts:
            raise Refused("this server answers on its own machine only", status=403, code="forbidden_host")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key and not hmac.compare_digest(given.encode(), key.encode()):
            raise Refused("give the server's key as Authorization: Bearer <key>", status=401, code="invalid_api_key")

    async def answer(request: Request, endpoint: str) -> ASGIApp:
        try:
            admit(request)
            body = await _json(request)
            done = await getattr(backend, endpoint)(body, request.receive)
        except Refused as refused:
            metrics.requests.labels(endpoint, str(refused.status)).inc()
            raise
        except ClientGone:
            metrics.requests.labels(endpoint, "499").inc()
            metrics.cancelled.inc()
            return Response(status_code=499)
        metrics.requests.labels(endpoint, str(done.status_code)).inc()
        return done

    async def chat(request: Request) -> ASGIApp:
        return await answer(request, "chat")

    async def completions(request: Request) -> ASGIApp:
        return await answer(request, "completions")

    # Bare routes: they give streams that are no Response, and nothing of a request is FastAPI's to read.
    for path, endpoint in (("/v1/chat/completions", chat), ("/v1/completions", completions)):
        app.router.routes.append(Route(path, endpoint, methods=["POST"]))

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        admit(request)
        return await backend.models()

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        admit(request)
        found = [one for one in (await backend.models())["data"] if one.get("id") == name]
        if not found:
            raise Refused(f"the model '{name[:100]}' does not exist", status=404, code="model_not_found")
        return found[0]

    @app.get("/health")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("ok") if await backend.healthy() else PlainTextResponse("ended", status_code=503)

    @app.get("/metrics")
    async def figures(request: Request) -> Response:
        admit(request)
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> JSONResponse:
        headers = {"Retry-After": "1"} if refused.status == 429 else {}
        return JSONResponse(refused.body, status_code=refused.status, headers=headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        told = Refused(f"{request.method} {request.url.path[:100]}: {error.detail}", status=error.status_code)
        return JSONResponse(told.body, status_code=error.status_code)

    return app


async def _json(request: Request) -> Any:
    """The body. Raises Refused for one that is too large or no JSON."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refused(f"a request may have {MAX_BODY} bytes", status=413)
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise Refused("the body is no JSON", code="invalid_json") from None
