"""OpenAI's requests as we take them, judged; errors in its shape. What we cannot do is refused, not passed over."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Field(default=None, ge=1)


class Refused(Exception):
    """A request that gets an error instead of an answer, in OpenAI's shape."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    @property
    def body(self) -> dict[str, Any]:
        """{"error": {message, type, param, code}}."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(_Strict):
    """stream_options."""

    include_usage: bool = False


class Asked(_Strict):
    """What both endpoints take."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=1.0, ge=0, le=100)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Count
    n: int | None = Field(default=1, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    "Run to max_tokens whatever is said: for load tests, as vLLM has it."
    max_thinking_tokens: int | None = Field(default=None, ge=0)
    "Tokens inside <think> after which its end is forced."

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Part(_Strict):
    """Part of a message."""

    type: str
    text: str = ""


class Message(_Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    def plain(self, number: int) -> dict[str, str]:
        """role and content as a chat template reads them. Raises Refused for what is no text."""
        content = self.content
        if isinstance(content, list):
            other = next((part.type for part in content if part.type != "text"), None)
            if other is not None:
                raise Refused(
                    f"the model reads text, not {other[:40]}", param=f"messages[{number}].content", code="unsupported"
                )
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content or ""}


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Count
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
"Settings that we do not have, with the values that ask for nothing."


def judge[Model: Asked](kind: type[Model], body: Any, *, max_n: int) -> Model:
    """The request. Raises Refused for what is wrong or not to be had."""
    if not isinstance(body, dict):
        raise Refused("the body has to be a JSON object")
    try:
        asked = kind.model_validate(body)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda one: len(one["loc"]))
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "str", "function")))
        message = f"{where}: {first['msg']}"
        raise Refused(message[:300], param=where or None, code=first["type"]) from None
    for name, values in _NEUTRAL.items():
        value = body.get(name)
        if value is not None and value not in values:
            raise Refused(f"{name} is not supported", param=name, code="unsupported_parameter")
    if (asked.n or 1) > max_n:
        raise Refused(f"n={asked.n}: at most {max_n} answers to a request", param="n", code="invalid_value")
    if len(asked.stops) > 4 or not all(asked.stops):
        raise Refused("stop takes up to four strings, none of them empty", param="stop", code="invalid_value")
    if isinstance(asked, ChatRequest) and asked.top_logprobs is not None and not asked.logprobs:
        raise Refused("top_logprobs needs logprobs=true", param="top_logprobs", code="invalid_value")
    return asked


def unknown_model(name: str, served: str) -> Refused:
    """404, as OpenAI says it."""
    message = f"the model '{name[:100]}' does not exist; this server has '{served}'"
    return Refused(message, status=404, param="model", code="model_not_found")


def too_long(tokens: int, limit: int, param: str) -> Refused:
    """400, as OpenAI says it."""
    message = f"the model reads {limit} tokens, answer included; the prompt alone has {tokens}"
    return Refused(message, param=param, code="context_length_exceeded")
