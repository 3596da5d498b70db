"""The cold start's set (R1 §2.3.1): a few hundred long, readable answers with thinking, a summary and the answer.

Two sources, by config: the corpus' solver, which searches in order, checks what it finds, and goes on after a failed
check; and answers of R1-Zero that are right and readable, with the summary added by rule.

Departs from R1 §2.3.1: there people rewrote R1-Zero's outputs; here a rule keeps the readable ones and adds a summary.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from infra.errors import ConfigError
from rl.language import target_language
from rl.reflection import thinking_of
from rl.rewards.accuracy import answer_of
from rl.stages.config import ColdStartConfig, FilterConfig
from rl.stages.filters import unreadable
from rl.stages.sampling import Sample
from rl.tasks.base import Task
from rl.tasks.countdown import Countdown
from rl.types import Question
from training.data.corpus import CorpusConfig, solved
from training.data.countdown import CHINESE_TEMPLATE, SHORT_TEMPLATE, chinese_question_text, question_text


def response(thinking: str, summary: str, answer: str) -> str:
    """The format from the cold start on: `<think>`, a line of summary, `<answer>`."""
    return f"<think>\n{thinking.strip()}\n</think>\n{summary}\n<answer>{answer}</answer>"


def summary_of(question: Question, answer: str) -> str:
    """One line that says what was found, as in `(3+5)*8=64`.

    Without a word before it: `so` would read as in the corpus, where a guess follows it.
    """
    target = question.meta.get("target")
    return answer if target is None else f"{answer}={target}"


def row(question: Question, text: str, source: str, *, part: str = "reasoning", asked: str = "") -> dict[str, Any]:
    """A row of a set. asked: the question without its template."""
    return {
        "id": f"{source}/{question.id}",
        "prompt": question.prompt,
        "response": text,
        "question": asked,
        "task": question.task,
        "part": part,
        "source": source,
        "language": target_language(question),
    }


def solver_rows(cfg: ColdStartConfig, task: Task, count: int, *, seed: int) -> list[dict[str, Any]]:
    """`count` answers of the solver. Raises ConfigError where no task is countdown, which alone it knows."""
    corpus = CorpusConfig(carelessness=cfg.carelessness, check_probability=1.0)
    rows: list[dict[str, Any]] = []
    for question in _countdown(task) if count else ():
        rng = random.Random(f"cold_start/{seed}/{question.id}")
        numbers, target = tuple(question.meta["numbers"]), question.meta["target"]
        chinese = question.prompt == SHORT_TEMPLATE.format(question=question_text(numbers, target)) and (
            rng.random() < cfg.share_chinese
        )
        if chinese:
            prompt = CHINESE_TEMPLATE.format(question=chinese_question_text(numbers, target))
            question = Question(question.id, question.task, prompt, question.answer, question.meta)
        thinking, answer = solved(corpus, rng, numbers, target, chinese=chinese)
        asked = (chinese_question_text if chinese else question_text)(numbers, target)
        rows.append(row(question, response(thinking, summary_of(question, answer), answer), "solver", asked=asked))
        if len(rows) == count:
            break
    return rows


def _countdown(task: Task, look: int = 1000) -> Iterator[Question]:
    """The task's countdown questions, in order."""
    number = since = 0
    while since < look:
        question = task.train_question(number)
        number, since = number + 1, since + 1
        if question.task == Countdown.name:
            since = 0
            yield question
    raise ConfigError(
        "cold_start.solver_share", "above 0", "the solver knows countdown alone", "add countdown to task.names"
    )


def zero_rows(
    questions: Sequence[Question], answers: Sequence[Sequence[Sample]], cfg: FilterConfig, count: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """-> (at most `count` of R1-Zero's answers, one a question, and why the others were left out).

    Kept: right, in R1-Zero's format, readable; of several, the longest, as the cold start is to show long thinking.
    """
    rows: list[dict[str, Any]] = []
    counts: dict[str, int] = {"sampled": 0, "kept": 0}
    for question, samples in zip(questions, answers, strict=True):
        kept = []
        for sample in samples:
            reason = "wrong" if sample.accuracy < 1 else "format" if sample.format < 1 else None
            reason = reason or unreadable(sample.text, question, cfg)
            counts["sampled"] += 1
            if reason:
                counts[reason] = counts.get(reason, 0) + 1
            else:
                kept.append(sample)
        if kept and len(rows) < count:
            text = max(kept, key=lambda sample: sample.tokens).text
            answer = answer_of(text) or ""
            rows.append(row(question, response(thinking_of(text), summary_of(question, answer), answer), "zero"))
            counts["kept"] += 1
    return rows, counts
