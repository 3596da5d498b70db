"""Conversations into prompts: by the model's chat template, or by the one its training had."""

import json
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from modeling.chat_template import render_chat
from modeling.thinking import CLOSE, OPEN
from rl.budget import FORCED
from rl.tasks.base import R1_ZERO_TEMPLATE, Template
from training.data.countdown import SHORT_TEMPLATE

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer


def template_for(template: Template, tokenizer: "Tokenizer") -> str:
    """The Jinja template of conversations. A model's own, where it has one; the tiny models are asked as their corpus
    does, and task.template=r1_zero asks as R1-Zero was asked (R1 table 1).

    Raises ConfigError for chat with a model that has no chat template.
    """
    if template is Template.auto:
        template = Template.short if tokenizer.is_own else Template.chat if tokenizer.has_chat else Template.r1_zero
    if template is Template.chat:
        if not tokenizer.has_chat:
            raise ConfigError("task.template", "chat", "the model's tokenizer has no chat template", "set r1_zero")
        return tokenizer.chat_template
    return _transcript(tokenizer.start, R1_ZERO_TEMPLATE if template is Template.r1_zero else SHORT_TEMPLATE)


def _transcript(start: str, template: str) -> str:
    """A template of one question, gone on with for a conversation: turns as it writes them, parted as it parts them."""
    head, _, tail = template.partition("User: {question}")
    space = tail.removesuffix("Assistant:")
    turn = (
        "{%- if m.role == 'user' -%}{{ 'User: ' + m.content }}{%- elif m.role == 'assistant' -%}"
        "{{ 'Assistant: ' + m.content }}{%- else -%}{{ m.content }}{%- endif -%}"
    )
    first, gap, end = (f"{{{{ {json.dumps(text)} }}}}" for text in (start + head, space, tail))
    between = "{%- if not loop.first -%}" + gap + "{%- endif -%}"
    return first + "{%- for m in messages -%}" + between + turn + "{%- endfor -%}" + end


class Prompts:
    """Makes prompts of conversations, and knows how a model's thinking is closed."""

    def __init__(self, template: str, tokenizer: "Tokenizer") -> None:
        self.template, self.tokenizer = template, tokenizer
        # The tiny models think on behind a bare </think> (rl/budget.py).
        closing = FORCED if tokenizer.is_own else f"\n{CLOSE}\n\n"
        self.closing = tokenizer.encode(closing)

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text that the model reads, up to where its answer begins. Raises CheckpointError where it fails."""
        return render_chat(self.template, messages, self.tokenizer.special_texts)

    @staticmethod
    def opens_thinking(prompt: str) -> bool:
        """Whether the prompt ends inside the thinking, as that of some chat templates does."""
        return prompt.rstrip().endswith(OPEN)
