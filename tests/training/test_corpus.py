"""The corpus, read back by a parser of its own: every sum and judgement, the split, the shares."""

import re
from itertools import islice

import pytest

from infra.errors import ConfigError
from rl.tasks.base import Template
from tests.arithmetic import numbers_in, value_of
from tests.training.corpus_reader import COMPARISONS, SUMS, Searched, judged, question_of, read_search
from tests.training.test_countdown_data import HELD_OUT, brute_force
from training.data.corpus import CorpusConfig, corpus_hash, document, documents

COUNT = 20_000


def searches(count: int = 4000, seed: int = 5, **cfg) -> list[Searched]:
    """Documents of nothing but searches, unless cfg says otherwise."""
    settings = CorpusConfig(**({"share_exercises": 0.0, "share_direct": 0.0} | cfg))
    found = [question_of(text) for text in islice(documents(settings, seed), count)]
    for doc in found:
        if doc.thinking is not None:
            read_search(doc)
    return found


def likely(found: int, of: int, share: float) -> bool:
    """Whether such a count is within 4.5 standard deviations: one seed in 100,000 would fall outside."""
    return abs(found - of * share) <= 4.5 * (of * share * (1 - share)) ** 0.5


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(islice(documents(CorpusConfig(), 0), COUNT))


@pytest.fixture(scope="module")
def questions(corpus) -> list[Searched]:
    found = [doc for doc in map(question_of, corpus) if doc is not None]
    for doc in found:
        if doc.thinking is not None:
            read_search(doc)
    return found


@pytest.fixture(scope="module")
def exercises(corpus) -> list[str]:
    return [text for text in corpus if question_of(text) is None]


def test_every_document_is_a_question_or_an_exercise_of_sums_of_two_numbers(exercises):
    assert exercises
    for text in exercises:
        assert SUMS.fullmatch(text) or COMPARISONS.fullmatch(text), text


def test_no_document_asks_over_a_held_out_set(questions):
    held = set(HELD_OUT)
    asked = {tuple(sorted(doc.numbers)) for doc in questions}
    assert not asked & held
    assert len(asked) == 192  # and every other set is asked about


def test_no_exercise_names_a_held_out_set(exercises):
    """Three numbers named together as in a question, or a sum over three."""
    for text in exercises:
        assert not re.search(r"\d+, \d+|from|用", text)
        assert not re.search(r"\d+\)?[+*-]\(?\d+\)?[+*-]", text)


def test_targets_are_reachable_and_not_the_plain_sum(questions):
    for doc in questions:
        assert 10 <= doc.target <= 100 and doc.target != sum(doc.numbers)
        assert doc.target in brute_force(tuple(doc.numbers))


def test_every_line_of_every_search_is_right(questions):
    """The fixture has read them all; here, that there was something to read."""
    assert sum(len(doc.values) for doc in questions) > 50_000
    assert sum(len(doc.checks) for doc in questions) > 500
    assert {doc.lines for doc in questions if doc.thinking} == set(range(1, 10))


def test_reader_of_searches_sees_mistakes():
    """The reader above asserts; a wrong sum, judgement, check or line has to stop it."""
    good = "3+8=11: +5=16 low -5=6 low *5=55 yes\n"
    read_search(Searched([3, 8, 5], 55, good, "(3+8)*5", False))
    for right, wrong in (
        ("=16", "=15"),
        ("6 low", "6 high"),
        ("3+8", "8+3"),
        ("16 low", "16 yes"),
        (" -5=6 low", ""),
    ):
        with pytest.raises(AssertionError):
            read_search(Searched([3, 8, 5], 55, good.replace(right, wrong, 1), "(3+8)*5", False))


def test_guesses_use_the_numbers_of_the_question(questions):
    for doc in questions:
        if doc.thinking is None:
            assert sorted(numbers_in(doc.answer)) == sorted(doc.numbers)


def test_sums_and_comparisons_are_right(exercises):
    for text in exercises:
        match = COMPARISONS.fullmatch(text)
        for first, value in re.findall(r"(\d+[+*-]\d+)=(-?\d+)", text):
            assert value_of(first) == int(value), text
        if match:
            words = re.findall(r"=(-?\d+) (\w+)", match[2])
            assert words and all(word == judged(int(value), int(match[1])) for value, word in words)


def test_a_question_reads_the_same_in_corpus_and_task(corpus):
    """The model must meet in RL the very text that it was trained on."""
    for text in corpus[:500]:
        doc = question_of(text)
        if doc is not None and not doc.chinese_question:
            a, b, c = doc.numbers
            assert text.startswith(Template.short.prompt(f"Make {doc.target} from {a}, {b}, {c}.") + "<")


def test_documents_depend_on_config_seed_and_number_only(corpus):
    cfg = CorpusConfig()
    assert [document(cfg, 0, i) for i in (19_999, 7, 0)] == [
        corpus[19_999],
        corpus[7],
        corpus[0],
    ]
    assert list(islice(documents(cfg, 0, start=1234), 50)) == corpus[1234:1284]
    assert [document(cfg, 1, i) for i in range(50)] != corpus[:50]
    assert [document(CorpusConfig(share_direct=0.9), 0, i) for i in range(50)] != corpus[:50]


def test_seeds_do_not_share_documents(corpus):
    """Document i of one seed is not document i + k of another: hardly a long search is found in both."""
    long = {text for text in corpus[:5000] if len(text) > 250}
    other = {text for text in islice(documents(CorpusConfig(), 1), 5000) if len(text) > 250}
    assert len(long) > 100 and len(long & other) < len(long) / 4


def test_hash_names_the_corpus():
    assert corpus_hash(CorpusConfig(), 0, 50) == corpus_hash(CorpusConfig(), 0, 50)
    others = [corpus_hash(CorpusConfig(), 1, 50), corpus_hash(CorpusConfig(), 0, 51)]
    others.append(corpus_hash(CorpusConfig(share_exercises=0.5), 0, 50))
    assert len({corpus_hash(CorpusConfig(), 0, 50), *others}) == 4
    assert re.fullmatch("[0-9a-f]{64}", others[0])


@pytest.mark.parametrize("exercises, direct", [(0.1, 0.3), (0.5, 0.6), (0.0, 1.0), (1.0, 0.0)])
def test_shares_of_exercises_and_direct_answers(exercises, direct):
    cfg = CorpusConfig(share_exercises=exercises, share_direct=direct, share_complete=0.0)
    texts = list(islice(documents(cfg, 3), 4000))
    asked = [doc for doc in map(question_of, texts) if doc is not None]
    assert likely(len(texts) - len(asked), len(texts), exercises)
    assert likely(sum(doc.thinking is None for doc in asked), len(asked), direct)
    assert likely(sum(text.startswith("Make") for text in texts), len(texts), exercises / 2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_complete_searches(share):
    """Who may give up does so after one line here, so whoever goes on never gives up."""
    docs = searches(share_complete=share, continue_probability=0.0, carelessness=0.0)
    later = [doc for doc in docs if doc.lines > 1 or doc.gave_up]
    assert likely(sum(not doc.gave_up for doc in later), len(later), share)
    assert all(doc.lines == 1 for doc in docs if doc.gave_up)


@pytest.mark.parametrize("share", [0.2, 0.45, 0.9])
def test_share_of_those_who_go_on_after_a_line(share):
    docs = searches(share_complete=0.0, continue_probability=share, carelessness=0.0)
    went_on = sum(doc.lines - 1 for doc in docs)
    assert likely(went_on, went_on + sum(doc.gave_up for doc in docs), share)


def test_complete_searches_without_carelessness_are_all_right():
    for doc in searches(share_complete=1.0, carelessness=0.0):
        assert not doc.gave_up and value_of(doc.answer) == doc.target


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_share_of_near_values_taken_for_the_target(share):
    docs = searches(share_complete=1.0, carelessness=share, check_probability=0.0)
    near = [judgement for doc in docs for _, v, judgement in doc.values if 0 < abs(v - doc.target) <= 5]
    assert len(near) > 1000
    assert likely(near.count("yes"), len(near), share)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_share_of_those_who_check(share):
    docs = searches(share_complete=1.0, check_probability=share)
    said_yes = sum(judgement == "yes" for doc in docs for _, _, judgement in doc.values)
    assert likely(sum(len(doc.checks) for doc in docs), said_yes, share)


def test_a_failed_check_turns_round_at_most_twice_and_the_search_goes_on():
    docs = searches(share_complete=1.0, carelessness=1.0, check_probability=1.0)
    assert {doc.waits for doc in docs} == {0, 1, 2}
    assert all(value_of(doc.answer) == doc.target and len(doc.checks) == doc.waits + 1 for doc in docs)


@pytest.mark.parametrize("chinese, asked", [(0.1, 0.5), (1.0, 0.2), (0.0, 0.5)])
def test_shares_of_chinese(chinese, asked):
    docs = searches(share_chinese=chinese, share_chinese_questions=asked)
    thinking = [doc for doc in docs if doc.chinese]
    assert likely(len(thinking), len(docs), chinese)
    assert likely(sum(doc.chinese_question for doc in thinking), len(thinking), asked)
    assert not any(doc.chinese_question for doc in docs if not doc.chinese)


@pytest.mark.parametrize(
    "key, value",
    [("share_exercises", -0.1), ("carelessness", 1.5), ("share_chinese", float("nan"))],
)
def test_a_share_that_is_no_probability_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"corpus.{key}"):
        CorpusConfig(**{key: value})


def test_shares_of_more_than_all_questions_are_refused():
    with pytest.raises(ConfigError, match="share_complete.*at most 0.3"):
        CorpusConfig(share_direct=0.7, share_complete=0.5)
