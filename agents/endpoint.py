"""A served model, asked under a budget: over plain HTTP for the simple patterns, or by the client of a library."""

import ipaddress
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from agents.budget import Budget
from agents.config import EndpointConfig
from agents.hostile import clean, visible
from infra.errors import ConfigError, R1Error
from infra.http_client import Client, Refused

UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"What the clients of others raise where a server's answer has not OpenAI's form."
REMEDY = "see whether the server lives and url= is its address up to /v1"


REFUSED = (400, 413, 422)
"Of a request for what it asks, mostly for its length: the next question may pass."


class RequestRefused(R1Error):
    """The server cannot answer this request."""


class Endpoint:
    """One server and one model on it. Raises ConfigError for a key that is not there, R1Error where nobody answers."""

    def __init__(self, cfg: EndpointConfig) -> None:
        cfg.check()
        self.cfg, self.key = cfg, ""
        if cfg.key_variable:
            self.key = os.environ.get(cfg.key_variable, "")
            if not self.key:
                remedy = "export it, or leave this out"
                raise ConfigError("endpoint.key_variable", cfg.key_variable, "is not set", remedy)
        self.near = _is_loopback(cfg.url)
        self.client = Client(
            cfg.url,
            retries=cfg.retries,
            who="the endpoint",
            remedy=REMEDY,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            proxies=not self.near,
        )
        self.model = cfg.model or self._first_model()

    def chat(self, messages: Sequence[dict[str, str]], budget: Budget) -> str:
        """What the model says. Raises LimitReached before a call that is not paid for, R1Error where none succeeds,
        RequestRefused among them."""
        body = {"model": self.model, "messages": list(messages), "temperature": self.cfg.temperature}
        with budget.call(self.cfg.max_tokens, self.cfg.timeout_s) as call:
            body["max_tokens"] = call.max_tokens
            # a server that is silent at each attempt takes no longer than the one that is waited for
            timeout_s = call.timeout_s / (self.cfg.retries + 1)
            try:
                answer = self.client.post("/chat/completions", body, timeout_s=timeout_s)
            except Refused as error:
                if error.status not in REFUSED:
                    raise
                raise RequestRefused(str(error)) from error
            try:
                text = answer["choices"][0]["message"]["content"] or ""
            except (KeyError, IndexError, TypeError):
                text = None
            if not isinstance(text, str):
                raise R1Error(f"the endpoint answers without a message; {REMEDY}")
            call.tokens = tokens_of(answer.get("usage"), messages, text)
        return text

    def ask(self, prompt: str, budget: Budget, rule: str = "") -> str:
        """One question; -> the answer without its thinking."""
        system = [{"role": "system", "content": rule}] if rule else []
        return visible(self.chat([*system, {"role": "user", "content": prompt}], budget))

    def told(self, error: Exception) -> R1Error:
        """What went wrong in the client of a library, in a line."""
        refused = getattr(error, "status_code", None) in REFUSED
        said = f"the endpoint {'refuses' if refused else 'does not answer'} an agent: {clean(str(error), 200)}"
        return RequestRefused(said) if refused else R1Error(f"{said}; {REMEDY}")

    def openai_client(self) -> dict[str, Any]:
        """Settings of the openai package's client, which smolagents and LangChain use: this server, past no proxy."""
        import openai

        return {"max_retries": self.cfg.retries, "http_client": openai.DefaultHttpxClient(trust_env=not self.near)}

    def _first_model(self) -> str:
        listed = self.client.get("/models", timeout_s=min(30.0, self.cfg.timeout_s))
        try:
            name = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            name = None
        if not isinstance(name, str):
            raise ConfigError("endpoint.model", "''", "the server lists no model", "set endpoint.model")
        return name


def tokens_of(usage: Any, messages: Sequence[dict[str, str]], text: str) -> int:
    """What a call has cost, by the server's count; where it tells none that can be, four characters a token."""
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    if type(total) is int and 0 < total < 10**9:
        return total
    return (sum(len(str(message.get("content"))) for message in messages) + len(text)) // 4 + 1


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
