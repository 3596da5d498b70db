"""Pieces of answers as OpenAI's JSON, for chat and for plain completions, whole and in chunks.

Chunks are put together from ready-made text: a stream of a few tokens a chunk is where the server's time goes.
"""

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from infra.serve.engine import Piece
from modeling.slots import Logprob

_FLOOR = -9999.0
"JSON has no minus infinity; OpenAI writes this."


class Reply(ABC):
    """What the answers to one request share. pieces: each token's text."""

    whole, chunk, prefix = "", "", ""

    def __init__(self, model: str, pieces: list[str]) -> None:
        self.model, self.pieces = model, pieces
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self._head = f'data: {{"id":"{self.id}","object":"{self.chunk}","created":{self.created},' + (
            f'"model":{json.dumps(model)},'
        )

    def chunk_of(self, pieces: list[Piece], *, first: bool) -> bytes:
        """One event for each piece; first: whether nothing was said before."""
        return "".join(self._event(piece, first=first) for piece in pieces).encode()

    def usage_chunk(self, usage: dict[str, int]) -> bytes:
        """The event that stream_options.include_usage asks for."""
        return f'{self._head}"choices":[],"usage":{json.dumps(usage)}}}\n\n'.encode()

    def of(self, pieces: list[list[Piece]], usage: dict[str, int]) -> dict[str, Any]:
        """The whole reply; pieces: those of each answer, in order."""
        head = {"id": self.id, "object": self.whole, "created": self.created, "model": self.model}
        return head | {"choices": [self._choice(each) for each in pieces], "usage": usage}

    def _event(self, piece: Piece, *, first: bool) -> str:
        finish = f'"{piece.finish}"' if piece.finish else "null"
        logprobs = json.dumps(self._logprobs([piece])) if piece.logprobs else "null"
        return (
            f'{self._head}"choices":[{{"index":{piece.index},{self._delta(piece, first)},'
            f'"logprobs":{logprobs},"finish_reason":{finish}}}]}}\n\n'
        )

    @abstractmethod
    def _delta(self, piece: Piece, first: bool) -> str: ...

    @abstractmethod
    def _choice(self, pieces: list[Piece]) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any] | None: ...

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": max(logprob, _FLOOR), "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        return self.pieces[token] if token < len(self.pieces) else ""

    @staticmethod
    def _told(pieces: Iterable[Piece]) -> list[tuple[int, Logprob]]:
        return [pair for piece in pieces for pair in zip(piece.tokens, piece.logprobs, strict=True)]


class ChatReply(Reply):
    """chat.completion"""

    whole, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _delta(self, piece: Piece, first: bool) -> str:
        parts = ['"role":"assistant"'] if first else []
        if piece.reasoning:
            parts.append(f'"reasoning_content":{json.dumps(piece.reasoning)}')
        if piece.content or first:
            parts.append(f'"content":{json.dumps(piece.content)}')
        return f'"delta":{{{",".join(parts)}}}'

    def _choice(self, pieces: list[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.content for piece in pieces)}
        if reasoning := "".join(piece.reasoning for piece in pieces):
            message["reasoning_content"] = reasoning
        told = self._logprobs(pieces) if pieces[0].logprobs else None
        return {"index": pieces[0].index, "message": message, "logprobs": told, "finish_reason": pieces[-1].finish}

    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        return {
            "content": [
                self._named(token, told.value) | {"top_logprobs": [self._named(*pair) for pair in told.top]}
                for token, told in self._told(pieces)
            ]
        }


class CompletionReply(Reply):
    """text_completion"""

    whole, chunk, prefix = "text_completion", "text_completion", "cmpl"

    def _delta(self, piece: Piece, first: bool) -> str:
        return f'"text":{json.dumps(piece.content)}'

    def _choice(self, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.content for piece in pieces)
        told = self._logprobs(pieces) if pieces[0].logprobs else None
        return {"index": pieces[0].index, "text": text, "logprobs": told, "finish_reason": pieces[-1].finish}

    def _logprobs(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        told = self._told(pieces)
        texts, offsets, at = [self._text(token) for token, _ in told], [], 0
        for text in texts:
            offsets.append(at)
            at += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [max(one.value, _FLOOR) for _, one in told],
            "top_logprobs": [{self._text(token): max(p, _FLOOR) for token, p in one.top} for _, one in told],
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The counts of a request."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
