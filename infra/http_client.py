"""HTTP with a server that speaks JSON, with repeated attempts where another may help; only the standard library."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from infra.errors import R1Error

_ERROR_BYTES = 1 << 16
"Read of a refusal; its first line is shown."


class _TooLarge(Exception):
    """An answer of more bytes than a client takes."""


class Refused(R1Error):
    """The server says no to a request; another attempt brings nothing."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks again where there was no connection, no JSON, an error of the server, or too many requests."""

    def __init__(
        self,
        url: str,
        *,
        retries: int,
        who: str,
        remedy: str,
        first_pause_s: float = 0.5,
        headers: dict[str, str] | None = None,
        proxies: bool = False,
        max_bytes: int = 1 << 30,
    ) -> None:
        """who and remedy: the server's name and what to do, for the error. proxies: whether the environment's are used;
        a proxy meant for the internet knows no cluster's addresses. max_bytes: of an answer; more are not read."""
        self.url, self.retries, self.first_pause_s = url.rstrip("/"), retries, first_pause_s
        self.who, self.remedy, self.headers, self.max_bytes = who, remedy, headers or {}, max_bytes
        self._open = (urllib.request.build_opener() if proxies else direct()).open

    def post(self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float) -> Any:
        """The JSON answer, None where it is empty. Raises R1Error where no attempt brings one, or it is refused."""
        headers = {"Content-Type": "application/json"} | self.headers
        return self._ask(urllib.request.Request(self.url + path, json.dumps(body or {}).encode(), headers), timeout_s)

    def get(self, path: str, *, timeout_s: float) -> Any:
        """As post."""
        return self._ask(urllib.request.Request(self.url + path, headers=self.headers), timeout_s)

    def _ask(self, request: urllib.request.Request, timeout_s: float) -> Any:
        for attempt in range(self.retries + 1):
            try:
                with self._open(request, timeout=timeout_s) as response:
                    text = _read(response, timeout_s, self.max_bytes)
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {_first_line(error.read(_ERROR_BYTES))}"
                if error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                    raise Refused(f"{self.who} refuses {request.full_url}: {problem}", error.code) from error
            except _TooLarge as error:  # nor would the next attempt's be smaller
                problem = f"an answer of more than {self.max_bytes} bytes"
                raise R1Error(f"{self.who} gives {request.full_url} {problem}; {self.remedy}") from error
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", None) or error or type(error).__name__)
            except (ValueError, RecursionError):
                problem = f"no JSON but {_first_line(text)}"
            if attempt < self.retries:
                time.sleep(min(self.first_pause_s * 2**attempt, 10.0))
        raise R1Error(
            f"{self.who} does not answer {request.full_url} in {self.retries + 1} attempts ({problem}); {self.remedy}"
        )


def _read(response: http.client.HTTPResponse, timeout_s: float, max_bytes: int) -> bytes:
    """The whole body. A server that drips is not waited for longer than one that is silent: TimeoutError."""
    deadline, parts, size = time.monotonic() + timeout_s, [], 0
    while part := response.read1(1 << 20):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _TooLarge
        if time.monotonic() > deadline:
            raise TimeoutError("timed out while it answered")
    return b"".join(parts)


def direct() -> urllib.request.OpenerDirector:
    """Straight to the server, past every proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _first_line(text: bytes) -> str:
    """What a server said, short and printable."""
    try:
        told = json.loads(text)
        told = told.get("error", told) if isinstance(told, dict) else told
        text = str(told.get("message", told) if isinstance(told, dict) else told).encode()
    except (ValueError, RecursionError):
        pass
    lines = text.decode(errors="replace").strip().splitlines() or ["nothing"]
    return "".join(c if c.isprintable() else " " for c in lines[0])[:200]
