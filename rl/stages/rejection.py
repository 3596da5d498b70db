"""Rejection sampling (R1 §2.3.3): the set that the base is trained on next, from samples of the reasoning model.

Reasoning part: several answers a question; those that are right, in the right format and readable are kept. General
part: the model's own answers where the task, or a judge, finds them right, else the task's answer without thinking, as
R1 took simple queries from DeepSeek-V3's data. The parts are 3 to 1.
"""

import random
from collections.abc import Sequence
from typing import Any

from infra.errors import R1Error
from rl.stages.cold_start import response, row, summary_of
from rl.stages.config import FilterConfig, RejectionConfig
from rl.stages.filters import unreadable
from rl.stages.sampling import Sample
from rl.tasks.base import Prompter
from rl.types import Question

MARK = "{asked here}"
"Stands for a question in a template that is taken apart."


def question_in(prompt: str, template: Prompter) -> str:
    """The question without the template around it; a student of another family gets it in its own.

    question_in("User: 1+1?\\nAssistant:", Template.short) is "1+1?".
    """
    before, _, after = template.prompt(MARK).partition(MARK)
    return prompt.removeprefix(before).removesuffix(after)


def reasoning_rows(
    questions: Sequence[Question],
    answers: Sequence[Sequence[Sample]],
    cfg: RejectionConfig,
    filters: FilterConfig,
    template: Prompter,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """-> (kept answers, at most cfg.keep different ones a question; how many were sampled, kept, left out and why)."""
    rows: list[dict[str, Any]] = []
    counts: dict[str, int] = {"sampled": 0, "kept": 0}
    for question, samples in zip(questions, answers, strict=True):
        kept: list[str] = []
        for sample in samples:
            reason = _left_out(sample, question, filters)
            if reason is None and sample.text in kept:
                reason = "repeated"
            if reason is None and len(kept) == cfg.keep:
                reason = "enough"
            counts["sampled"] += 1
            counts[reason or "kept"] = counts.get(reason or "kept", 0) + 1
            if reason is None:
                kept.append(sample.text)
        asked = question_in(question.prompt, template)
        rows += [row(question, text, f"sampled_{i}", asked=asked) for i, text in enumerate(kept)]
    return rows, counts


def general_rows(
    questions: Sequence[Question],
    answers: Sequence[Sequence[Sample]],
    cfg: RejectionConfig,
    filters: FilterConfig,
    template: Prompter,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """-> (an answer to each question, the model's or the task's; counts of both and of questions left without one)."""
    rows: list[dict[str, Any]] = []
    counts = {"asked": 0, "own": 0, "reference": 0, "none": 0}
    for question, samples in zip(questions, answers, strict=True):
        own = next((s.text for s in samples if _left_out(s, question, filters, cfg.judge_least) is None), None)
        source = "own" if own else "reference" if cfg.references and question.answer else "none"
        counts["asked"] += 1
        counts[source] += 1
        if source != "none":
            text = own or response("", summary_of(question, question.answer), question.answer)
            asked = question_in(question.prompt, template)
            rows.append(row(question, text, source, part="general", asked=asked))
    return rows, counts


def _left_out(sample: Sample, question: Question, filters: FilterConfig, least: float = 1.0) -> str | None:
    """Why an answer is not kept; None where it is. Where a judge was asked, `least` of it is enough."""
    if max(sample.accuracy, sample.judge or 0.0) < (1.0 if sample.judge is None else least):
        return "wrong"
    return "format" if sample.format < 1 else unreadable(sample.text, question, filters)


def mixture(
    reasoning: list[dict[str, Any]], general: list[dict[str, Any]], ratio: float, *, seed: int, only_reasoning: bool
) -> list[dict[str, Any]]:
    """The set, shuffled: as much of both parts as there is at `ratio` reasoning rows to a general one.

    only_reasoning: there is no general part. Raises R1Error where a part is empty.
    """
    if not reasoning or not (general or only_reasoning):
        empty = "general" if reasoning else "reasoning"
        raise R1Error(f"rejection sampling: no {empty} answer was kept; ask more questions, or a better model")
    rng = random.Random(f"rejection/{seed}")
    rng.shuffle(reasoning)
    rng.shuffle(general)
    if not only_reasoning:
        take = min(len(general), int(len(reasoning) / ratio))
        if take == 0:
            raise R1Error(
                f"rejection sampling: {len(reasoning)} reasoning answers are fewer than rejection."
                f"reasoning_per_general={ratio:g}; ask more questions"
            )
        reasoning, general = reasoning[: round(take * ratio)], general[:take]
    rows = reasoning + (general if not only_reasoning else [])
    rng.shuffle(rows)
    return rows
