"""`r1 serve` on the released base as its users meet it: the official client, against our own engine and the network."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch

from modeling import hf
from modeling.build import build_model
from modeling.generate import Generator
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from tests.modeling.test_decode import full_logits
from training import parallel
from training.config import ParallelConfig

ROOT = Path(__file__).parents[3]
BASE = ROOT / "experiments" / "base"
ROWS, QUEUE = 8, 20
QUESTIONS = [f"Make {target} from 3, 5, 8." for target in (18, 19, 64, 7, 39, 16)]


class Served:
    """The process, its address, and a client."""

    def __init__(self, process: subprocess.Popen, url: str) -> None:
        self.process, self.url = process, url
        self.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)

    def figure(self, name: str) -> float:
        """A value of /metrics."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics") as response:
            text = response.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def chat(self, question: str = QUESTIONS[0], **changes):
        messages = [{"role": "user", "content": question}]
        return self.client.chat.completions.create(**dict(model="base", messages=messages, temperature=0) | changes)

    def complete(self, prompt, **changes):
        return self.client.completions.create(**dict(model="base", prompt=prompt, temperature=0) | changes)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = ["checkpoint=experiments/base", "port=0", f"max_rows={ROWS}", f"max_queue={QUEUE}", "flush_ms=10"]
    settings.append(f"run.dir={tmp_path_factory.mktemp('run')}")
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "serve", *settings],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "curl" in line, f"the server ended with {process.wait()}"
        yield Served(process, re.search(r"http://\S+/v1", line)[0])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def base():
    parallel.init(ParallelConfig(), 0)
    cfg = hf.config_from(BASE)
    module = build_model(cfg)
    hf.load_pretrained(module, cfg, BASE)
    return module.eval(), cfg, Tokenizer.load(BASE)


def offline(base, prompts: list[str], length: int) -> list[str]:
    """What the batch sampler writes, greedily."""
    module, cfg, tokenizer = base
    answers = Generator(module, cfg).generate(
        [tokenizer.encode(prompt) for prompt in prompts],
        SamplingConfig(temperature=0.0, max_response_tokens=length),
        seeds=[0] * len(prompts),
        stop_ids=tokenizer.stop_ids,
    )
    return [tokenizer.decode([t for t in answer.tokens if t not in tokenizer.end_ids]) for answer in answers]


def test_greedy_answers_that_join_at_different_times_are_the_batch_samplers(served, base) -> None:
    prompts = [f"User: {question}\nAssistant:" for question in QUESTIONS] * 2

    def ask(number: int) -> str:
        time.sleep(0.03 * number)
        return served.complete(prompts[number], max_tokens=60 + number).choices[0].text

    with ThreadPoolExecutor(len(prompts)) as pool:
        told = list(pool.map(ask, range(len(prompts))))
    assert told == [offline(base, [prompt], 60 + i)[0] for i, prompt in enumerate(prompts)]


def test_thinking_is_told_apart_in_a_whole_answer_and_in_a_stream(served, base) -> None:
    [text] = offline(base, [f"User: {QUESTIONS[0]}\nAssistant:"], 200)
    thinking, answer = re.fullmatch(r"\s*<think>\s*(.*)</think>\s*(<answer>.*)", text, re.S).groups()
    whole = served.chat(max_tokens=200)
    message = whole.choices[0].message
    assert (message.reasoning_content, message.content.strip()) == (thinking, answer)
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.prompt_tokens == len(base[2].encode(f"User: {QUESTIONS[0]}\nAssistant:"))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    chunks = list(served.chat(max_tokens=200, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thinking
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert deltas[0].role == "assistant" and chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len(chunks) > 3


def test_logprobs_are_the_networks(served, base) -> None:
    module, _, tokenizer = base
    prompt = f"User: {QUESTIONS[1]}\nAssistant:"
    told = served.complete(prompt, max_tokens=12, temperature=1.0, seed=5, logprobs=3).choices[0].logprobs
    ids, pieces = tokenizer.encode(prompt), tokenizer.pieces()
    written = [pieces.index(token) for token in told.tokens]
    right = full_logits(module, [*ids, *written])[len(ids) - 1 : -1].log_softmax(-1)
    taken = right.gather(1, torch.tensor(written).unsqueeze(1)).squeeze(1)
    assert told.token_logprobs == pytest.approx(taken.tolist(), abs=1e-3)
    assert [max(top.values()) for top in told.top_logprobs] == pytest.approx(right.amax(1).tolist(), abs=1e-3)

    chat = served.chat(QUESTIONS[1], max_tokens=12, temperature=1.0, seed=5, logprobs=True, top_logprobs=2)
    content = chat.choices[0].logprobs.content
    assert [one.logprob for one in content] == pytest.approx(told.token_logprobs, abs=1e-4)
    assert all(len(one.top_logprobs) == 2 for one in content)


def test_seeds_stops_and_several_answers(served) -> None:
    prompt = f"User: {QUESTIONS[2]}\nAssistant:"
    drawn = [served.complete(prompt, max_tokens=20, temperature=1.0, seed=s, n=3).choices for s in (1, 1, 2)]
    texts = [[choice.text for choice in sorted(choices, key=lambda c: c.index)] for choices in drawn]
    assert texts[0] == texts[1] and texts[0][1:] == texts[2][:2] and len(set(texts[0])) > 1
    whole = served.complete(prompt, max_tokens=60).choices[0].text
    stop = whole[9:12]
    told = served.complete(prompt, max_tokens=60, stop=["never there", stop])
    assert told.choices[0].text == whole[: whole.index(stop)] and told.choices[0].finish_reason == "stop"
    assert 0 < told.usage.completion_tokens < 60
    pair = served.complete([prompt, f"User: {QUESTIONS[3]}\nAssistant:"], max_tokens=60)
    assert [choice.index for choice in pair.choices] == [0, 1] and pair.choices[0].text == whole


def test_a_thinking_budget_forces_the_answer(served, base) -> None:
    told = served.chat(QUESTIONS[2], max_tokens=60, extra_body={"max_thinking_tokens": 6}).choices[0]
    assert 0 < len(base[2].encode(told.message.reasoning_content)) <= 7
    assert told.message.content.startswith("<answer>")
    free = served.chat(QUESTIONS[2], max_tokens=200).choices[0].message
    assert free.reasoning_content.startswith(told.message.reasoning_content)
    assert len(free.reasoning_content) > len(told.message.reasoning_content)


def test_a_client_that_leaves_frees_its_rows(served) -> None:
    before = {name: served.figure(name) for name in ("r1_completion_tokens_total", "r1_requests_cancelled_total")}
    stream = served.chat(stream=True, n=ROWS, max_tokens=340, temperature=1, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert served.figure("r1_running") == ROWS
    stream.close()
    deadline = time.monotonic() + 20
    while served.figure("r1_running") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.figure("r1_requests_cancelled_total") == before["r1_requests_cancelled_total"] + 1
    assert served.figure("r1_completion_tokens_total") - before["r1_completion_tokens_total"] < ROWS * 330


def test_a_full_queue_refuses_and_the_rest_is_answered(served) -> None:
    long = dict(stream=True, n=ROWS, max_tokens=300, extra_body={"ignore_eos": True})
    streams, refused = [], []
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            try:
                streams.append(stack.enter_context(served.chat(**long)))
            except openai.RateLimitError as error:
                refused.append(error)
        assert len(streams) >= 2 and refused
        assert refused[0].code == "queue_full" and refused[0].type == "rate_limit_error"
    assert served.chat(max_tokens=3).usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        (dict(model="gpt-5"), 404, "model", "model_not_found"),
        (dict(messages=[{"role": "user", "content": "3 " * 500}]), 400, "messages", "context_length_exceeded"),
        (dict(max_tokens="5"), 400, "max_tokens", None),
        (dict(max_tokens=0), 400, "max_tokens", None),
        (dict(temperature=-1), 400, "temperature", None),
        (dict(messages="hello"), 400, "messages", None),
        (dict(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, "messages[0].content", None),
        (dict(messages=[{"role": "robot", "content": "hi"}]), 400, "messages.0.role", None),
        (dict(n=17), 400, "n", "invalid_value"),
        (dict(top_logprobs=3), 400, "top_logprobs", "invalid_value"),
        (dict(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools", "unsupported_parameter"),
        (dict(stop=["a"] * 5), 400, "stop", "invalid_value"),
    ],
)
def test_bad_requests_get_errors_in_openais_shape(served, changes, status, param, code) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        served.chat(**changes)
    error = caught.value
    assert error.status_code == status and error.param == param and error.type == "invalid_request_error"
    assert error.code == code if code else error.code
    assert set(error.body) == {"message", "type", "param", "code"}


def test_what_is_no_json_and_what_is_no_route_gets_errors_too(served) -> None:
    for path, data, status in (("/chat/completions", b"{", 400), ("/completions", b"[]", 400), ("/none", b"{}", 404)):
        request = urllib.request.Request(served.url + path, data, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == status
        assert set(json.loads(caught.value.read())["error"]) == {"message", "type", "param", "code"}


def test_models_are_listed(served) -> None:
    assert [model.id for model in served.client.models.list()] == ["base"]
    assert served.client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("other")


def test_many_clients_at_once_get_all_their_tokens(served) -> None:
    first = served.figure("r1_time_to_first_token_seconds_count")

    def ask(number: int) -> int:
        stream = served.chat(
            QUESTIONS[number % 6],
            stream=True,
            max_tokens=40,
            temperature=1,
            extra_body={"ignore_eos": True},
            stream_options={"include_usage": True},
        )
        return [chunk for chunk in stream][-1].usage.completion_tokens

    with ThreadPoolExecutor(ROWS + QUEUE - 4) as pool:
        assert list(pool.map(ask, range(ROWS + QUEUE - 4))) == [40] * (ROWS + QUEUE - 4)
    assert served.figure("r1_time_to_first_token_seconds_count") == first + ROWS + QUEUE - 4
    assert served.figure("r1_running") == served.figure("r1_waiting") == 0


def test_agents_run_over_the_served_model(served, tmp_path):
    """The plumbing under smolagents, LangGraph and the patterns; what the tiny model answers is what it is."""
    from agents.config import AgentsConfig, BudgetConfig, EndpointConfig, Kind
    from agents.run import run

    cfg = AgentsConfig(
        endpoint=EndpointConfig(url=served.url, max_tokens=24), questions=1, steps=2, short=True,
        kinds=[Kind.plain, Kind.code, Kind.supervisor, Kind.parallel], budget=BudgetConfig(calls=4),
    )  # fmt: skip
    assert run(cfg, tmp_path) == 0
    kinds = json.loads((tmp_path / "agents.json").read_text())["kinds"]
    assert kinds.keys() == {"plain", "code", "supervisor", "parallel"}
    for kind in kinds.values():
        assert all(1 <= answer["calls"] <= 4 for answer in kind["answers"])
        assert kind["answers"][0]["tokens"] > 0


def test_told_to_stop_it_takes_nothing_new_and_ends_what_runs(served) -> None:
    """The last test here: the server is gone after it."""
    stream = served.chat(stream=True, n=4, max_tokens=300, temperature=1, extra_body={"ignore_eos": True})
    chunks = iter(stream)
    next(chunks)
    served.process.send_signal(signal.SIGTERM)
    refused = threading.Event()

    def knock() -> None:
        while not refused.is_set() and served.process.poll() is None:
            with contextlib.suppress(openai.APIStatusError):
                try:
                    openai.OpenAI(base_url=served.url, api_key="none", max_retries=0).models.list()
                except openai.APIConnectionError:
                    refused.set()
            time.sleep(0.05)

    knocking = threading.Thread(target=knock)
    knocking.start()
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert ends == ["length"] * 4
    assert served.process.wait(timeout=30) == 0
    knocking.join()
    assert refused.is_set()
