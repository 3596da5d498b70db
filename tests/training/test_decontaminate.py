"""Which texts hold a test question, by hand and against a search of its own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.decontaminate import Dropped, decontaminate, words_of

LONG = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    "text, words",
    [
        ("Make 18 from 3, 5, 8.", ["make", "18", "from", "3", "5", "8"]),
        ("25+6=31", ["25", "+", "6", "=", "31"]),
        ("写 forty-two。", ["写", "forty", "-", "two"]),
        ("snake_case", ["snake", "case"]),
        ("", []),
    ],
)
def test_words_by_hand(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    "text, drops",
    [
        (f"so: {LONG.upper()}!", True),
        ("zero two three four five six seven eight nine ten eleven, and", True),  # ten in a row
        ("two three four five six seven eight nine ten", False),  # nine
        ("one two three four five, but six seven eight nine ten eleven twelve", False),  # a word between
        ("", False),
    ],
)
def test_ten_words_in_a_row_give_a_long_question_away(text, drops):
    assert bool(decontaminate([text], [LONG]).dropped) is drops


def test_a_short_question_has_to_stand_there_whole_and_a_tiny_one_is_not_looked_for():
    texts = ["User: Make 18 from 3, 5, 8.\nAssistant:", "Make 18 from 3, 5, 9.", "18 from 3 5", "why", "a b, c!"]
    found = decontaminate(texts, ["Make 18 from 3, 5, 8.", "why", "x", "A b c?"])
    assert found.kept == [1, 2, 3] and found.unchecked == [1, 2]
    assert found.dropped == [Dropped(0, 0, "make 18 from 3 5 8"), Dropped(4, 3, "a b c")]
    assert str(found) == (
        "2 of 5 texts hold a test question and were dropped; 2 test questions are too short to look for"
    )


def test_the_corpus_tasks_are_found_in_their_own_documents():
    from rl.tasks.general import GeneralTask
    from training.data.corpus import CorpusConfig, documents
    from training.data.general import exchanges

    held = [e.question for kind in ("facts", "writing", "refusal") for e in exchanges(kind, held=True)]
    stream = documents(CorpusConfig(share_general=1.0), 0)
    written = [next(stream) for _ in range(500)]
    assert decontaminate(written, held).dropped == []
    leak = GeneralTask("refusal").test_questions(1)[0].prompt + "<answer>no</answer>"
    assert [d.text for d in decontaminate([*written, leak], held).dropped] == [500]


@given(st.integers(0, 10**6))
def test_runs_are_found_as_a_plain_search_finds_them(seed):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("abc", k=rng.randint(0, 30))) for _ in range(5)]
    questions = [" ".join(rng.choices("abc", k=rng.randint(1, 12))) for _ in range(3)]
    expected = []
    for i, text in enumerate(texts):
        hit = False
        for question in questions:
            words = question.split()
            size = min(4, len(words))
            runs = [" ".join(words[j : j + size]) for j in range(len(words) - size + 1)] if len(words) >= 2 else []
            hit = hit or any(f" {run} " in f" {text} " for run in runs)
        expected += [] if hit else [i]
    assert decontaminate(texts, questions, n=4, least=2).kept == expected


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="least=5 has to be from 1 to n=4"):
        decontaminate([], [], n=4, least=5)
