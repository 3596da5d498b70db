"""Limits hold at the client, whoever asks."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.budget import Budget, LimitReached
from agents.config import BudgetConfig, EndpointConfig
from agents.endpoint import Endpoint, RequestRefused, tokens_of
from infra.errors import ConfigError
from tests.agents.scripted import Scripted, refuses


def test_calls_are_counted_and_failed_ones_too():
    with Scripted([(400, "no"), "yes"]) as server:
        endpoint, budget = Endpoint(server.cfg()), Budget(BudgetConfig(calls=2))
        with pytest.raises(RequestRefused, match="refuses .* status 400: no"):
            endpoint.ask("a", budget)
        assert endpoint.ask("a", budget) == "yes"
        with pytest.raises(LimitReached, match="limit of 2 calls"):
            endpoint.ask("a", budget)
        assert (budget.calls, budget.tokens, len(server.bodies)) == (2, 15, 2)


def test_an_answer_is_no_longer_than_what_is_left():
    with Scripted(["x"]) as server:
        endpoint, budget = Endpoint(server.cfg(max_tokens=50)), Budget(BudgetConfig(tokens=40))
        for _ in range(3):
            endpoint.ask("a", budget)
        with pytest.raises(LimitReached, match="limit of 40 tokens"):
            endpoint.ask("a", budget)
        assert [body["max_tokens"] for body in server.bodies] == [40, 25, 10]


def test_calls_side_by_side_do_not_overdraw():
    budget = Budget(BudgetConfig(tokens=100, calls=1000))

    def spend(_: int) -> int:
        try:
            with budget.call(40, 1.0) as call:
                time.sleep(0.001)
                call.tokens = call.max_tokens
                return call.tokens
        except LimitReached:
            return 0

    with ThreadPoolExecutor(8) as pool:
        spent = sum(pool.map(spend, range(100)))
    assert spent == budget.tokens <= 100


def test_time_is_a_limit():
    budget = Budget(BudgetConfig(seconds=0.05))
    with budget.call(1, 9.0) as call:
        assert call.timeout_s <= 0.05
    time.sleep(0.06)
    with pytest.raises(LimitReached, match="seconds"), budget.call(1, 9.0):
        pass


@pytest.mark.parametrize("usage", [None, 3, {}, {"total_tokens": -5}, {"total_tokens": "9"}, {"total_tokens": True}])
def test_a_server_that_counts_nothing_is_counted(usage):
    assert tokens_of(usage, [{"content": "x" * 40}], "y" * 40) == 21


@pytest.mark.parametrize("answer", ["[]", '{"choices": []}', '{"choices": [{"message": {"content": 5}}]}', '"x"'])
def test_an_answer_that_is_none_is_an_error_in_a_line(answer, monkeypatch):
    with Scripted(["x"]) as server:
        endpoint = Endpoint(server.cfg())
        monkeypatch.setattr(endpoint.client, "post", lambda *a, **k: json.loads(answer))
        with refuses("answers without a message"):
            endpoint.ask("a", Budget(BudgetConfig()))


def test_thinking_is_left_out_of_an_answer():
    with Scripted(["<think>hm <answer>9</answer></think>\n<answer>4</answer>", "<think>without end", None]) as server:
        endpoint, budget = Endpoint(server.cfg()), Budget(BudgetConfig())
        assert [endpoint.ask("a", budget) for _ in range(3)] == ["4", "", ""]


def test_what_names_no_server_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="r1 serve starts one"):
        EndpointConfig().check()
    with pytest.raises(ConfigError) as refused:
        EndpointConfig(url="http://me:secret@host/v1")
    assert "secret" not in str(refused.value)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        Endpoint(EndpointConfig(url="http://127.0.0.1:1/v1", key_variable="NO_SUCH_KEY"))
    with refuses("does not answer"):
        Endpoint(EndpointConfig(url="http://127.0.0.1:1/v1", retries=0))
