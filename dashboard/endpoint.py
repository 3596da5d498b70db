"""An OpenAI-compatible server, as the chat page speaks to one; only the standard library."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from infra.http_client import direct

TIMEOUT_S = 5.0
PATIENCE_S = 600.0
"For the next piece of an answer."


class Unreachable(Exception):
    """No such server answers; says why."""


def models(url: str, key: str) -> list[str]:
    """Names of the models that a server has. Raises Unreachable."""
    try:
        with _ask(url, key, "/models", None, TIMEOUT_S) as response:
            told = json.loads(response.read())
        return [str(model["id"]) for model in told["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable("what answers there is no OpenAI-compatible server") from error


def stream(url: str, key: str, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(thinking, answer) as they come, piece by piece. Raises Unreachable where the server refuses or breaks off."""
    with _ask(url, key, "/chat/completions", body | {"stream": True}, PATIENCE_S) as response:
        try:
            for line in response:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    yield _piece(line[5:])
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the server broke off: {error}") from error


def _piece(data: bytes) -> tuple[str, str]:
    try:
        event = json.loads(data)
        if "error" in event:
            raise Unreachable(str(event["error"].get("message")))
        deltas = [choice["delta"] for choice in event["choices"]]
        thinking, answer = (
            "".join(str(delta.get(name) or "") for delta in deltas) for name in ("reasoning_content", "content")
        )
        return thinking, answer
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreachable("the server's stream cannot be read") from error


def _ask(url: str, key: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url.rstrip("/") + path, data, headers)
        if request.type not in ("http", "https"):
            raise Unreachable("give an address as in http://127.0.0.1:8000/v1")
        return direct().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        raise Unreachable(_said(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(str(getattr(error, "reason", None) or error)) from error


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return f"status {error.code}: {json.loads(error.read())['error']['message']}"
    except (KeyError, TypeError, ValueError, OSError):
        return f"status {error.code}"
