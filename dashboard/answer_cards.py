"""Answers as cards and facts, as the pages Samples and Aha show them."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from dashboard import answer_filter
from dashboard.answer_filter import Filter, result
from dashboard.shown import address, card, marked, text_block
from rl.reflection import self_checks

FLAT = "Zero variance: all rewards of this group are equal, so it teaches nothing in this step."


def number(value, form: str = "g") -> str:
    """A number for people; "-" where it is missing."""
    return "-" if value is None or pd.isna(value) else f"{value:{form}}"


def is_flat(group: pd.DataFrame) -> bool:
    """Whether the answers to a question all earned the same: their advantages are 0."""
    return len(group) > 1 and group["reward"].notna().all() and group["reward"].nunique() == 1


def facts(answer, parts: Iterable[str]) -> list[str]:
    """The line above an answer."""
    breakdown = ", ".join(f"{part.removeprefix('reward_')} {number(answer[part])}" for part in parts) or "-"
    return [
        f"#{number(answer['group'], '.0f')} {result(answer)}",
        f"reward {number(answer['reward'], '.3g')} ({breakdown})",
        f"advantage {number(answer['advantage'], '+.2f')}",
        f"{number(answer['response_tokens'], '.0f')} tokens, {number(answer['thinking_tokens'], '.0f')} thinking",
    ]


def answer_card(
    answer, parts: Iterable[str], wanted: Filter, *, head: Iterable[str] = (), dimmed: bool = False, link: str = ""
) -> str:
    """The card of an answer: its self-checks marked, as they are counted, inside the thinking only."""
    text = answer["text"] or ""
    start = text.find("<think>")
    end = text.find("</think>", start)
    places = [(*span, "r1-found") for span in answer_filter.spans(text[:20_000], wanted.contains, wanted.regex)]
    body = marked(text, self_checks(text), start=max(start, 0), end=end if end >= 0 else None, places=places)
    return card([*head, *facts(answer, parts)], text_block(body), result(answer), dimmed=dimmed, link=link)


def link(run: str, kind: str, step: int, question: str, answer) -> str:
    """The address of one answer on the page Samples."""
    return address(run=run, of=kind, step=step, question=question, answer=number(answer["group"], ".0f"))


def parts_of(answers: pd.DataFrame) -> list[str]:
    """The columns of the reward's parts."""
    return [name for name in answers.columns if name.startswith("reward_")]


def question_ids(path: Path) -> tuple[str, ...]:
    """The questions of a step's file, by its one column; none of a file that cannot be read."""
    try:
        stat = path.stat()
        return _question_ids(str(path), stat.st_mtime_ns, stat.st_size)
    except (OSError, pa.ArrowException, KeyError):
        return ()


@st.cache_data(show_spinner=False, max_entries=20_000)
def _question_ids(path: str, modified_ns: int, size: int) -> tuple[str, ...]:
    with pq.ParquetFile(path) as file:
        if "question_id" not in file.schema_arrow.names:
            return ()
        values = file.read(columns=["question_id"])["question_id"].cast(pa.large_binary()).to_pylist()
    return tuple(dict.fromkeys((value or b"-").decode("utf-8", "replace") for value in values))


def asked_at(files: dict[int, Path], question: str) -> list[int]:
    """The steps at which a question was asked."""
    return [step for step, path in files.items() if question in question_ids(path)]


def spread(steps: list[int], most: int) -> list[int]:
    """At most `most` steps, evenly spread, the first and the last among them.

    >>> spread(list(range(100)), 4)
    [0, 33, 66, 99]
    """
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
