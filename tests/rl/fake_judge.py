"""A server of chat completions with scripted faults, in a thread."""

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeJudge:
    """says(prompt) is the verdict; faults meet the first requests: a status with a body, "slow", "drip", "drop"."""

    def __init__(self, says: Callable[[str], str], faults: list[Any] | None = None) -> None:
        self.says, self.faults = says, list(faults or [])
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.bodies.append(body | {"path": self.path})
                    owner.headers.append(dict(self.headers))
                    fault = owner.faults.pop(0) if owner.faults else None
                owner.answer(self, body, fault)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, request: BaseHTTPRequestHandler, body: dict, fault: Any) -> None:
        if fault == "drop":
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            time.sleep(0.8)
        status, text = fault if isinstance(fault, tuple) else (200, "")
        if not isinstance(fault, tuple):
            message = {"content": self.says(body["messages"][0]["content"])}
            text = json.dumps({"choices": [{"message": message}]})
        try:
            request.send_response(status)
            request.end_headers()
            for byte in text.encode() if fault == "drip" else ():
                request.wfile.write(bytes([byte]))
                time.sleep(0.05)
            request.wfile.write(text.encode())
        except OSError:  # who asked has hung up
            pass

    def __enter__(self) -> "FakeJudge":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.shutdown()
        self.http.server_close()
