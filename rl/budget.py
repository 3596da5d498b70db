"""Forced thinking budgets: answers written anew behind a thinking that is cut short (R1 §2.2.4 turned into a control).

The thinking is the model's own, cut after so many tokens; </think> and <answer> are put there and the model writes the
answer. With </think> alone the tiny base thinks on behind it in nine of ten cuts: it has never seen a search end in the
middle of a line. An answer whose thinking ended in time, or that has none, is left as it is: all budgets share the same
thinking, so that accuracies differ by the cut alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rl.types import Completion, Group

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer
    from rl.rollout.engine import RolloutEngine

OPEN, CLOSE = "<think>", "</think>"
FORCED = f"{CLOSE}\n<answer>"
"What is put where the thinking is cut."


def cut_thinking(text: str, budget: int, tokenizer: Tokenizer) -> tuple[str, int] | None:
    """-> (the response up to where the model is to go on, thinking tokens in it); None where nothing is to be cut.

    With a token a word, cut_thinking("<think>a b c</think>...", 2, ...) is ("<think>a b</think>\\n<answer>", 2).
    """
    before, opened, rest = text.partition(OPEN)
    thinking, closed, _ = rest.partition(CLOSE)
    if not opened:
        return None
    tokens = tokenizer.encode(thinking)
    if closed and len(tokens) <= budget:
        return None
    kept = tokenizer.decode(tokens[:budget]).rstrip("\ufffd")  # half a character at the cut is none
    return before + OPEN + kept + FORCED, min(budget, len(tokens))


def at_budget(engine: RolloutEngine, tokenizer: Tokenizer, groups: list[Group], budget: int) -> list[list[Completion]]:
    """[group][answer] as they are with at most `budget` thinking tokens; unscored. Every rank calls it."""
    cuts = [[cut_thinking(c.text, budget, tokenizer) for c in group.completions] for group in groups]
    asked = [
        replace(group.question, id=f"{group.question.id}/budget{budget}/{g}", prompt=_continued(group, cut[0]))
        for group, row in zip(groups, cuts, strict=True)
        for g, cut in enumerate(row)
        if cut is not None
    ]
    written = iter(engine.generate(asked, 1, step=-1) if asked else [])
    out = []
    for group, row in zip(groups, cuts, strict=True):
        answers = [
            completion if cut is None else _joined(*cut, next(written)[0], tokenizer)
            for completion, cut in zip(group.completions, row, strict=True)
        ]
        out.append(answers)
    return out


def _continued(group: Group, response: str) -> str:
    """The prompt with the cut response; some chat templates have opened the thinking in the prompt already."""
    prompt = group.question.prompt
    return prompt + (response.removeprefix(OPEN) if prompt.rstrip().endswith(OPEN) else response)


def _joined(response: str, thinking_tokens: int, rest: Completion, tokenizer: Tokenizer) -> Completion:
    """The cut response and what followed, as one answer; the sampler's figures of the forced part are unknown, 0."""
    forced = tokenizer.encode(response)
    zeros = [0.0] * len(forced)
    return Completion(
        tokens=forced + rest.tokens,
        text=response + rest.text,
        sampler_logprobs=zeros + rest.sampler_logprobs,
        entropies=zeros + rest.entropies if rest.entropies else [],
        stopped=rest.stopped,
        version=rest.version,
        thinking_tokens=thinking_tokens,
    )
