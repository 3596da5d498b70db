"""A server of OpenAI's chat completions that says what a script says, in a thread."""

import json
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agents.config import EndpointConfig


class Scripted:
    """says(body), or the next of a list whose last is said for ever, is the answer: a text, or (status, text)."""

    def __init__(self, says: Callable[[dict], Any] | Iterable[Any], usage: Any = None) -> None:
        self.bodies: list[dict] = []
        self.usage = usage or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        lines, owner = [] if callable(says) else list(says), self
        self.says = says if callable(says) else lambda body: lines.pop(0) if len(lines) > 1 else lines[0]
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.bodies.append(body)
                    said = owner.says(body)
                if isinstance(said, tuple):
                    return self.send(said[0], {"error": {"message": said[1], "type": "x", "code": None, "param": None}})
                choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
                head = {"id": "c", "object": "chat.completion", "created": 1, "model": "scripted"}
                self.send(200, head | {"choices": [choice], "usage": owner.usage})

            def send(self, status: int, value: Any) -> None:
                text = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def cfg(self, **given: Any) -> EndpointConfig:
        return EndpointConfig(**{"url": self.url, "retries": 0, "timeout_s": 30.0} | given)

    def prompts(self) -> list[str]:
        """All that was said to the model, one text a call."""
        return ["\n".join(str(message["content"]) for message in body["messages"]) for body in self.bodies]

    def __enter__(self) -> "Scripted":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def refuses(match: str) -> Any:
    """pytest.raises of an R1Error that says so."""
    from infra.errors import R1Error

    return pytest.raises(R1Error, match=match)
