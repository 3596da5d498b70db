"""The chat page against a small server that says hostile things."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.dashboard.test_pages import open_page, shown

HOSTILE = "![x](http://127.0.0.1:9/beacon) <script>alert(1)</script> **7**"


class FakeServer:
    """Streams a thinking and an answer; `refuses` is the message of an error instead."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuses, self.answer = "", HOSTILE
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, json.dumps({"data": [{"id": "tiny"}]}))

            def do_POST(self) -> None:
                owner.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if owner.refuses:
                    return self.reply(400, json.dumps({"error": {"message": owner.refuses}}))
                deltas = [
                    {"reasoning_content": "first 3,"},
                    {"reasoning_content": " then 5"},
                    {"content": owner.answer},
                ]
                events = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas]
                self.reply(200, "".join(events) + "data: [DONE]\n\n")

            def reply(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_answers_are_plain_text_and_thinking_is_folded(runs, fake) -> None:
    app = open_page("chat")
    assert "r1 serve" in shown(app)
    app.text_input(key="chat_url").set_value(fake.url).run()
    assert not app.exception
    app.number_input(key="chat_budget").set_value(9).run()
    app.chat_input[0].set_value("Make 7 from 2, 5.").run()
    assert not app.exception
    texts = [block.value for block in app.text]
    assert texts == ["Make 7 from 2, 5.", "first 3, then 5", HOSTILE]
    assert app.expander[0].label == "Thinking" and app.expander[0].text[0].value == "first 3, then 5"
    assert "beacon" not in "".join(str(block.value) for block in app.markdown)
    assert fake.asked[0]["messages"] == [{"role": "user", "content": "Make 7 from 2, 5."}]
    assert fake.asked[0]["max_thinking_tokens"] == 9 and fake.asked[0]["model"] == "tiny"

    fake.refuses = "too [long](http://a)"
    app.chat_input[0].set_value("Again").run()
    assert not app.exception
    assert len(app.warning) == 1 and "[long](" not in app.warning[0].value
    assert fake.asked[1]["messages"] == [{"role": "user", "content": "Again"}]

    fake.refuses, fake.answer = "", ""
    app.chat_input[0].set_value("Make 18 from 3, 5, 8.").run()
    assert [caption.value for caption in app.caption][-1].startswith("No answer")
