"""The HTTP side without a network: the key, names of hosts, an upstream server of which some split thinking."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from experiments.config import compose
from infra.cli import main
from infra.errors import ConfigError
from infra.serve.app import build
from infra.serve.command import name_of
from infra.serve.metrics import Metrics
from infra.serve.prompts import Prompts, template_for
from infra.serve.proxy import ProxyBackend
from infra.serve_config import API_KEY, LOCAL_HOSTS, ServeConfig
from modeling.hf_link import lay_out
from modeling.tokenizer import Tokenizer
from rl.tasks.base import R1_ZERO_TEMPLATE, Template
from training.data.countdown import SHORT_TEMPLATE

BASE = Path(__file__).parents[3] / "experiments" / "base"


class FakeUpstream:
    """Answers with `deltas`, in a stream or as a whole; `fails` is a status and body instead."""

    def __init__(self) -> None:
        self.deltas: list[dict[str, str]] = []
        self.fails: tuple[int, str] | None = None
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, json.dumps({"object": "list", "data": [{"id": "theirs", "object": "model"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append((self.path, body, self.headers.get("Authorization")))
                if owner.fails:
                    self.reply(*owner.fails)
                elif body.get("stream"):
                    events = [
                        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in owner.deltas
                    ]
                    events[-1]["choices"][0]["finish_reason"] = "stop"
                    events.append({"choices": [], "usage": {"total_tokens": 9}})
                    self.reply(200, "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n")
                else:
                    message = {"role": "assistant", "content": "".join(d.get("content", "") for d in owner.deltas)}
                    self.reply(200, json.dumps({"choices": [{"index": 0, "message": message, "text": "<think>"}]}))

            def reply(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    fake = FakeUpstream()
    threading.Thread(target=fake.http.serve_forever, args=(0.02,), daemon=True).start()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


def front(url: str, *, key: str = "", hosts: tuple[str, ...] = ()) -> TestClient:
    metrics = Metrics()
    return TestClient(build(ProxyBackend(url, metrics, key="theirs"), metrics, key=key, hosts=hosts))


def streamed(client: TestClient) -> tuple[str, str, list[dict]]:
    """-> thinking, answer, and all events of a stream."""
    body = {"model": "theirs", "messages": [], "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return (
        "".join(delta.get("reasoning_content") or "" for delta in deltas),
        "".join(delta.get("content") or "" for delta in deltas),
        events,
    )


def test_an_upstreams_thinking_is_told_apart_where_it_does_not_do_that(upstream) -> None:
    with front(upstream.url) as client:
        upstream.deltas = [{"role": "assistant", "content": "<thi"}, {"content": "nk>a b</think>"}, {"content": "\nc"}]
        thinking, answer, events = streamed(client)
        assert (thinking, answer) == ("a b", "c")
        assert events[-1]["usage"] == {"total_tokens": 9}
        body = {"model": "theirs", "messages": [], "odd": 1}
        told = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert (told["reasoning_content"], told["content"]) == ("a b", "c")
        assert upstream.asked[-1] == ("/v1/chat/completions", body, "Bearer theirs")
        upstream.deltas = [{"content": "<think>x</think>y"}]
        assert client.post("/v1/completions", json={"prompt": "a"}).json()["choices"][0]["text"] == "<think>"
        upstream.deltas = [{"content": "opened by its template</think>y"}]
        told = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert (told["reasoning_content"], told["content"]) == ("opened by its template", "y")


def test_an_upstream_that_splits_passes_as_it_is(upstream) -> None:
    upstream.deltas = [{"reasoning_content": "a <think> b"}, {"content": "</think>"}, {"content": "c"}]
    with front(upstream.url) as client:
        assert streamed(client)[:2] == ("a <think> b", "</think>c")


def test_an_upstreams_errors_and_its_absence_are_told_in_openais_shape(upstream) -> None:
    with front(upstream.url) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "theirs"
        assert client.get("/health").status_code == 200
        upstream.fails = (400, json.dumps({"error": {"message": "no", "type": "odd", "param": "n", "code": 7}}))
        for stream in (True, False):
            told = client.post("/v1/chat/completions", json={"stream": stream})
            assert told.status_code == 400
            assert told.json() == {"error": {"message": "no", "type": "odd", "param": "n", "code": "7"}}
        upstream.fails = (503, "<html>")
        assert client.post("/v1/completions", json={}).status_code == 503
        upstream.fails = None
    with front("http://127.0.0.1:9/v1") as client:
        told = client.post("/v1/chat/completions", json={})
        assert told.status_code == 502 and told.json()["error"]["code"] == "upstream_unreachable"
        assert client.get("/health").status_code == 503


def test_a_key_is_asked_for_everywhere_but_at_health(upstream) -> None:
    upstream.deltas = [{"content": "x"}]
    with front(upstream.url, key="secret") as client:
        wrong = ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer sécret".encode()})
        for headers in wrong:
            for ask in (
                lambda h: client.get("/v1/models", headers=h),
                lambda h: client.get("/metrics", headers=h),
                lambda h: client.post("/v1/chat/completions", json={}, headers=h),
            ):
                told = ask(headers)
                assert told.status_code == 401 and told.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/health").status_code == 200
        right = {"Authorization": "Bearer secret"}
        assert client.post("/v1/chat/completions", json={}, headers=right).status_code == 200
        assert 'r1_requests_total{endpoint="chat",status="401"} 3.0' in client.get("/metrics", headers=right).text


def test_a_local_server_is_not_reached_by_another_name(upstream) -> None:
    with front(upstream.url, hosts=LOCAL_HOSTS) as client:
        assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200


def test_strangers_need_a_key_and_errors_come_before_the_model(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.delenv(API_KEY, raising=False)
    with pytest.raises(ConfigError, match=API_KEY):
        ServeConfig(host="0.0.0.0").check_key()
    assert ServeConfig().check_key() == ""
    monkeypatch.setenv(API_KEY, "k")
    assert ServeConfig(host="0.0.0.0").check_key() == "k"
    for wrong in (["upstream=10.0.0.1"], ["upstream=http://a", "engine=vllm"], ["speculative=true", "engine=vllm"]):
        with pytest.raises(ConfigError):
            compose("serve", wrong)
    assert main(["serve", "host=999.0.0.1"]) == 2
    assert "serve.port" in capsys.readouterr().err
    bare = tmp_path / "checkpoints"
    bare.mkdir()
    assert main(["serve", f"checkpoint={tmp_path}", "engine=vllm", "port=0"]) == 2
    assert "r1 export" in capsys.readouterr().err
    assert main(["serve", f"checkpoint={BASE}", "engine=vllm", "port=0", "rl.rollout.vllm.python=none"]) == 2
    assert "serve.engine=vllm" in capsys.readouterr().err


def test_conversations_are_written_as_the_model_was_trained() -> None:
    tokenizer = Tokenizer.load(BASE)
    one = [{"role": "user", "content": "Make 7 from {{ 1 }}, 2."}]
    for template, text in ((Template.auto, SHORT_TEMPLATE), (Template.r1_zero, R1_ZERO_TEMPLATE)):
        written = Prompts(template_for(template, tokenizer), tokenizer).render(one)
        assert written == text.replace("{question}", one[0]["content"])
    more = [
        {"role": "system", "content": "Be brief."},
        *one,
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "And 8?"},
    ]
    assert Prompts(template_for(Template.short, tokenizer), tokenizer).render(more) == (
        "Be brief.\nUser: Make 7 from {{ 1 }}, 2.\nAssistant: 7\nUser: And 8?\nAssistant:"
    )
    with pytest.raises(ConfigError, match="no chat template"):
        template_for(Template.chat, tokenizer)
    assert Prompts.opens_thinking("<|Assistant|><think>\n") and not Prompts.opens_thinking("a <think> b")


def test_vllm_is_given_the_weights_and_a_tokenizer_that_transformers_loads(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.load(BASE)
    laid_out = lay_out(BASE, tmp_path / "vllm", tokenizer)
    assert (laid_out / "model.safetensors").resolve() == BASE / "model.safetensors"
    read = AutoTokenizer.from_pretrained(laid_out)
    assert read("<think>3+5")["input_ids"] == tokenizer.encode("<think>3+5") and read.eos_token == "<eos>"
    assert name_of(tmp_path / "mine" / "checkpoints" / "step_00000100") == "mine"
