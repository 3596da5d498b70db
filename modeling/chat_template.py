"""A model's chat template (Jinja), rendered as transformers does: in a sandbox that reads its arguments and no more."""

import functools
import json
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from infra.errors import CheckpointError


def render(template: str, message: str, tokens: dict[str, str]) -> str:
    """One user message, and the mark after which the answer begins. tokens: special tokens by role (bos_token, ...)."""
    try:
        return render_chat(template, [{"role": "user", "content": message}], tokens)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; set task.template=r1_zero to ask without it") from error


def render_chat(template: str, messages: list[dict[str, str]], tokens: dict[str, str]) -> str:
    """A conversation, messages of role and content, and the mark after which the answer begins.

    Raises CheckpointError where the template fails, or refuses these messages.
    """
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=True, **tokens)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(f"the model's chat template fails: {error}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)
