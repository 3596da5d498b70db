"""What a step's answers look like: rewards, lengths, reflection, entropy. Statistics only; nothing here is rewarded."""

import math

import numpy as np

from rl.reflection import reflects
from rl.types import Completion, Group


def rollout_metrics(groups: list[Group]) -> dict[str, float]:
    """Means over all answers of a step; a length over an empty set (no right answer, say) is left out, never 0.

    Accuracy is that of questions which rules alone judge, where there are such; of general ones it is told apart, so
    that their coming in (R1 §2.3.4: the last part of the steps) does not look like forgetting.
    """
    answers = [c for g in groups for c in g.completions]
    right = [c for c in answers if c.breakdown["accuracy"] == 1.0]
    wrong = [c for c in answers if c.breakdown["accuracy"] != 1.0]
    tokens = sum(len(c.tokens) for c in answers)
    metrics = {
        "rl/reward/mean": _mean([c.reward for c in answers]),
        **{f"rl/reward/{part}": _mean(values) for part, values in _parts(answers).items()},
        "rl/response_tokens": tokens / len(answers),
        "rl/thinking_tokens": _mean([c.thinking_tokens for c in answers]),
        "rl/truncated_frac": _mean([not c.stopped for c in answers]),
        "rl/reflection_rate": _mean([reflects(c.text) for c in answers]),
    }
    general = [c for g in groups if g.question.meta.get("general") for c in g.completions]
    if general:
        metrics["rl/reward/general_accuracy"] = _mean([c.breakdown["accuracy"] for c in general])
        by_rules = [c for g in groups if not g.question.meta.get("general") for c in g.completions]
        metrics["rl/reward/accuracy"] = _mean([c.breakdown["accuracy"] for c in by_rules or general])
    for part in ("length", "repetition"):  # where they are rewarded
        if part in answers[0].breakdown:
            metrics[f"rl/reward/{part}"] = _mean([c.breakdown[part] for c in answers])
    if all(len(c.entropies) == len(c.tokens) for c in answers):  # vLLM and Megatron's engine do not tell them
        metrics["rl/entropy"] = sum(sum(c.entropies) for c in answers) / max(tokens, 1)
    metrics |= surprisal(answers)
    for name, some in (("correct", right), ("wrong", wrong)):
        if some:
            metrics[f"rl/response_tokens_{name}"] = _mean([len(c.tokens) for c in some])
    return metrics


def _parts(answers: list[Completion]) -> dict[str, list[float]]:
    """Each part of the breakdowns with its values, from the answers that have it."""
    names = dict.fromkeys(name for c in answers for name in c.breakdown)
    return {name: [c.breakdown[name] for c in answers if name in c.breakdown] for name in names}


def surprisal(answers: list[Completion]) -> dict[str, float]:
    """Whether the tokens are as surprising as the sampler's own distribution says, where the engine tells entropies.

    rl/surprisal_gap: mean over all tokens of d = -logprob - entropy, nats; it is 0 in the mean where a token was drawn
    from the distribution that both are of. rl/surprisal_z: sum of d over the root of its sum of squares, which has then
    a deviation of about 1, whatever the model, however long the answers (d is a martingale difference).

    Example: a fair coin of 100 tokens, told as 3 : 1, of which 50 came each way: logprobs log .75 and log .25, entropy
    .562; gap .275.
    """
    if not all(len(c.entropies) == len(c.tokens) for c in answers):  # vLLM and Megatron's engine do not tell them
        return {}
    d = [-lp - h for c in answers for lp, h in zip(c.sampler_logprobs, c.entropies, strict=True)]
    squares = sum(x * x for x in d)
    if not squares:  # greedy, or nothing written
        return {}
    return {"rl/surprisal_gap": sum(d) / len(d), "rl/surprisal_z": sum(d) / math.sqrt(squares)}


def staleness(groups: list[Group], updates: int) -> float:
    """Optimiser steps between the weights that wrote the answers and those about to learn from them, mean."""
    return _mean([updates - c.version for g in groups for c in g.completions])


def sample_rows(groups: list[Group], step: int, tokenizer) -> list[dict]:
    """Rows for the sample file: every answer of the groups given (column names as the dashboard reads them)."""
    rows = []
    for group in groups:
        for index, c in enumerate(group.completions):
            rows.append(
                {
                    "step": step,
                    "question_id": group.question.id,
                    "task": group.question.task,
                    "prompt": group.question.prompt,
                    "answer_key": group.question.answer,
                    "group": index,
                    "text": c.text,
                    "reward": c.reward,
                    **{f"reward_{part}": value for part, value in c.breakdown.items()},
                    "advantage": c.advantage,
                    "response_tokens": len(c.tokens),
                    "thinking_tokens": c.thinking_tokens,
                    "stopped": c.stopped,
                    "reflects": reflects(c.text),
                    "version": c.version,
                    "tokens": [tokenizer.decode([t]) for t in c.tokens],
                    "sampler_logprobs": list(map(float, c.sampler_logprobs)),
                    # Of other engines' answers, and of those that another rank trains on, these are not known: null.
                    "entropies": list(map(float, c.entropies)) if len(c.entropies) == len(c.tokens) else None,
                    "trainer_logprobs": list(c.trainer_logprobs) or None,
                }
            )
    return rows


def _mean(values: list[float] | list[int] | list[bool]) -> float:
    return float(np.mean(values))
