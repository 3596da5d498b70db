"""A server that speaks as much of vLLM's HTTP as the engine uses, with scripted faults; in a thread or as a process.

Its answers depend on the request's seed and on the bytes of the weights it has read, so that a test sees which ones
wrote an answer. As a process it is started like vLLM: `fake_vllm.py serve FOLDER --port N ...`.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeVLLM:
    """Serves the weights of a folder. faults: (path, status, body) that answer the next requests to that path."""

    def __init__(self, folder: Path, port: int = 0, max_model_len: int = 1024) -> None:
        self.folder, self.max_model_len = Path(folder), max_model_len
        self.requests: list[tuple[str, Any]] = []
        self.faults: list[tuple[str, int, str]] = []
        self.weights, self.awake = b"", {"weights", "kv_cache"}
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.handle(self, None)

            def do_POST(self) -> None:
                owner.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.read_weights()

    def __enter__(self) -> "FakeVLLM":
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def read_weights(self) -> None:
        file = self.folder / "model.safetensors"
        self.weights = hashlib.sha256(file.read_bytes()).digest() if file.exists() else b""

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _ in self.requests]

    def handle(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        path = request.path
        with self.lock:
            self.requests.append((path, body))
            fault = next((f for f in self.faults if f[0] == path), None)
            if fault is not None:
                self.faults.remove(fault)
        if fault is not None:
            return self.reply(request, fault[1], fault[2])
        status, answer = self.answer(path, body)
        self.reply(request, status, json.dumps(answer) if answer is not None else "")

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            model = {"id": "served", "root": str(self.folder), "max_model_len": self.max_model_len}
            return 200, {"data": [model]}
        if path == "/sleep?level=2":
            self.awake, self.weights = set(), b""
        elif path.startswith("/wake_up?tags="):
            self.awake.add(path.partition("=")[2])
        elif path == "/collective_rpc":
            if body != {"method": "reload_weights"} or "weights" not in self.awake:
                return 500, {"error": "no room for weights"}
            self.read_weights()
        elif path == "/v1/completions":
            if self.awake != {"weights", "kv_cache"} or not self.weights:
                return 500, {"error": {"message": "asleep"}}
            return 200, {"choices": [self.choice(body, index) for index in reversed(range(body["n"]))]}
        elif path not in ("/health", "/reset_prefix_cache"):
            return 404, {"detail": "Not Found"}
        return 200, None

    def choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        """Tokens from seed and weights; every other answer ends with a stop token, the others at the limit."""
        digest = hashlib.sha256(self.weights + str((body["seed"] + index, body["prompt"])).encode()).digest()
        tokens = [100 + byte % 100 for byte in digest[: min(body["max_tokens"], 8)]]
        stops = digest[-1] % 2 == 0
        if stops:
            tokens[-1] = body["stop_token_ids"][0]
        logprobs = {"tokens": [f"token_id:{t}" for t in tokens], "token_logprobs": [-t / 100 for t in tokens]}
        reason = "stop" if stops else "length"
        return {"index": index, "text": "", "token_ids": tokens, "logprobs": logprobs, "finish_reason": reason}

    @staticmethod
    def reply(request: BaseHTTPRequestHandler, status: int, text: str) -> None:
        if status == 0:  # hang up without a word
            request.close_connection = True
            request.connection.close()
            return
        request.send_response(status)
        request.send_header("Content-Length", str(len(text.encode())))
        request.end_headers()
        request.wfile.write(text.encode())


def main(arguments: list[str]) -> None:
    folder, options = Path(arguments[1]), dict(zip(arguments[2::2], arguments[3::2], strict=False))
    if (folder / "broken").exists():
        print("loading weights ...\nValueError: no such architecture")
        sys.exit(3)
    print("serving", arguments, flush=True)
    FakeVLLM(folder, int(options["--port"])).http.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
