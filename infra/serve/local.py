"""Requests answered by our own engine."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import Response
from starlette.types import ASGIApp, Receive

from infra.errors import CheckpointError, R1Error
from infra.serve.engine import Busy, Choice, Engine, Piece, Ticket
from infra.serve.metrics import Metrics
from infra.serve.prompts import Prompts
from infra.serve.protocol import Asked, ChatRequest, CompletionRequest, Refused, judge, too_long, unknown_model
from infra.serve.replies import ChatReply, CompletionReply, Reply, usage
from infra.serve.streaming import DONE, EventStream, unless_gone
from modeling.sampling import SamplingConfig
from modeling.slots import Row
from modeling.thinking import ThinkingBudget


class LocalBackend:
    """Chat and completions on the engine. name: what clients call the model."""

    def __init__(self, engine: Engine, prompts: Prompts, metrics: Metrics, *, name: str, max_n: int) -> None:
        self.engine, self.prompts, self.metrics, self.name, self.max_n = engine, prompts, metrics, name, max_n
        self.tokenizer, self.limit = engine.tokenizer, engine.cfg.max_position_embeddings
        self.pieces, self.stop_ids = self.tokenizer.pieces(), frozenset(self.tokenizer.stop_ids)
        metrics.running.set_function(lambda: engine.running)
        metrics.waiting.set_function(lambda: engine.waiting)

    async def start(self) -> None:
        self.engine.start(asyncio.get_running_loop())

    async def stop(self) -> None:
        self.engine.stop()

    async def healthy(self) -> bool:
        return not self.engine.failed

    async def models(self) -> dict[str, Any]:
        """The one model, with the length of its context as vLLM tells it."""
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "r1lab", "max_model_len": self.limit}
        return {"object": "list", "data": [model]}

    async def chat(self, body: Any, receive: Receive) -> ASGIApp:
        """POST /v1/chat/completions."""
        asked = judge(ChatRequest, body, max_n=self.max_n)
        self._check_model(asked)
        try:
            prompt = self.prompts.render([message.plain(i) for i, message in enumerate(asked.messages)])
        except CheckpointError as error:
            raise Refused(str(error), param="messages") from None
        opened = self.prompts.opens_thinking(prompt)
        top = (asked.top_logprobs or 0) if asked.logprobs else -1
        most = asked.max_completion_tokens or asked.max_tokens or self.limit
        ids = self._encoded(prompt, "messages")
        ticket = self._ticket(asked, [ids], most=most, top=top, splits=True, opened=opened)
        return await self._answer(asked, ticket, ChatReply(self.name, self.pieces), receive)

    async def completions(self, body: Any, receive: Receive) -> ASGIApp:
        """POST /v1/completions."""
        asked = judge(CompletionRequest, body, max_n=self.max_n)
        self._check_model(asked)
        given = asked.prompt
        several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
        prompts = [self._encoded(prompt, "prompt") for prompt in (given if several else [given])]
        if len(prompts) * (asked.n or 1) > max(self.max_n, self.engine.max_queue):
            raise Refused(f"at most {self.engine.max_queue} answers to a request", param="prompt")
        top = -1 if asked.logprobs is None else asked.logprobs
        ticket = self._ticket(asked, prompts, most=asked.max_tokens or 16, top=top, splits=False, opened=False)
        return await self._answer(asked, ticket, CompletionReply(self.name, self.pieces), receive)

    def _check_model(self, asked: Asked) -> None:
        if asked.model != self.name:
            raise unknown_model(asked.model, self.name)

    def _encoded(self, prompt: str | list[int], param: str) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise Refused(f"{param} is empty", param=param, code="invalid_value")
        if len(ids) >= self.limit:
            raise too_long(len(ids), self.limit, param)
        if min(ids) < 0 or max(ids) >= self.engine.cfg.vocab_size:
            raise Refused(f"the model knows ids below {self.engine.cfg.vocab_size}", param=param, code="invalid_value")
        return ids

    def _ticket(
        self, asked: Asked, prompts: list[list[int]], *, most: int, top: int, splits: bool, opened: bool
    ) -> Ticket:
        """n answers to each prompt; answer i has the seed `seed + i`."""
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        # null is OpenAI's word for the default
        temperature, top_p = (1.0 if value is None else value for value in (asked.temperature, asked.top_p))
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, max_response_tokens=most)
        choices = []
        for i, prompt in enumerate(prompt for prompt in prompts for _ in range(asked.n or 1)):
            budget = None
            if asked.max_thinking_tokens is not None:
                closing = self.prompts.closing
                budget = ThinkingBudget(asked.max_thinking_tokens, opened=opened, pieces=self.pieces, closing=closing)
            row = Row(
                prompt=prompt,
                sampling=sampling,
                seed=seed + i,
                stop_ids=frozenset() if asked.ignore_eos else self.stop_ids,
                top_logprobs=top,
                budget=budget,
            )
            choices.append(Choice(i, row, self.tokenizer, stop=asked.stops, splits=splits, opened=opened))
        return Ticket(choices, prompt_tokens=sum(map(len, prompts)))

    async def _answer(self, asked: Asked, ticket: Ticket, reply: Reply, receive: Receive) -> ASGIApp:
        try:
            self.engine.submit(ticket)
        except Busy as error:
            raise Refused(str(error), status=429, kind="rate_limit_error", code="queue_full") from None
        except R1Error as error:
            raise Refused(str(error), status=503) from None
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return EventStream(self._events(ticket, reply, with_usage), self.metrics.cancelled.inc)
        return await unless_gone(receive, self._whole(ticket, reply))

    async def _whole(self, ticket: Ticket, reply: Reply) -> Response:
        pieces: list[list[Piece]] = [[] for _ in ticket.choices]
        try:
            async for new in ticket:
                for piece in new:
                    pieces[piece.index].append(piece)
        except R1Error as error:
            raise Refused(str(error), status=500) from None
        finally:
            self._end(ticket)
        counts = usage(ticket.prompt_tokens, sum(choice.seen for choice in ticket.choices))
        return Response(json.dumps(reply.of(pieces, counts)), media_type="application/json")

    async def _events(self, ticket: Ticket, reply: Reply, with_usage: bool) -> AsyncGenerator[bytes]:
        begun: set[int] = set()
        try:
            async for pieces in ticket:
                yield b"".join(reply.chunk_of([piece], first=piece.index not in begun) for piece in pieces)
                begun.update(piece.index for piece in pieces)
            if with_usage:
                yield reply.usage_chunk(usage(ticket.prompt_tokens, sum(choice.seen for choice in ticket.choices)))
            yield DONE
        except R1Error as error:
            yield f"data: {json.dumps(Refused(str(error), status=500).body)}\n\n".encode()
        finally:
            self._end(ticket)

    def _end(self, ticket: Ticket) -> None:
        """Count what was done; what nobody waits for any more is not gone on with."""
        if not ticket.over:
            self.engine.cancel(ticket)
        self.metrics.prompt_tokens.inc(ticket.prompt_tokens)
        self.metrics.completion_tokens.inc(sum(choice.seen for choice in ticket.choices))
        if ticket.first_s:
            self.metrics.first_token.observe(ticket.first_s)
            self.metrics.duration.observe(ticket.elapsed_s)
