"""Rewards by hand, and hostile text: finding the answer and judging the format never raise and take linear time."""

import dataclasses
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.rewards.accuracy import answer_of
from rl.rewards.base import RewardConfig, score, score_groups
from rl.rewards.format import format_ok
from rl.types import Completion, Group, Question

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
PIECES = [*TAGS, "<", ">", "</", "<eos>", "answer>", " ", "\n", "1", "8*5", "\0", "٣", "\u2028", "\ud800"]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
UNTAGGED = st.text(max_size=40).filter(lambda text: "<" not in text)
MEGA = 1_000_000


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<answer>8*5</answer>", "8*5"),
        ("<think>x</think>\n<answer>\n 8*5 \n</answer>", "8*5"),
        ("<answer>1</answer> no: <answer> 2 </answer>", "2"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer>1</answer></answer>", "1"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>1<answer>2</answer></answer>", "2"),
        ("</answer><answer>1</answer>", "1"),
        ("<answer></answer>", ""),
        ("<answer>a\nb</answer> and more", "a\nb"),
        ("<think><answer>1</answer></think>", "1"),
        ("<answer>1", None),
        ("1</answer>", None),
        ("</answer>1<answer>", None),
        ("<ANSWER>1</ANSWER>", None),
        ("<answer >1</answer>", None),
        ("", None),
    ],
)
def test_answer_by_hand(text, answer):
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    "text, ok",
    [
        ("<think>a</think><answer>1</answer>", True),
        ("<think>\na\n</think>\n<answer>1</answer>\n", True),
        ("  <think></think> <answer></answer>", True),
        ("<answer>1</answer>", False),
        ("<think>a</think>1", False),
        ("<think>a<answer>1</answer>", False),
        ("a</think><answer>1</answer>", False),
        ("so <think>a</think><answer>1</answer>", False),
        ("<think>a</think><answer>1</answer> so", False),
        ("<think>a</think> so <answer>1</answer>", False),
        ("<think>a</think><answer>1</answer><answer>1</answer>", False),
        ("<think><think>a</think><answer>1</answer>", False),
        ("<think>a</think></think><answer>1</answer>", False),
        ("<think>a<answer>1</answer></think>", False),
        ("<answer>1</answer><think>a</think>", False),
        ("<think><answer></think>1</answer>", False),
        ("<think>a</think><answer>1", False),
        ("", False),
    ],
)
def test_format_by_hand(text, ok):
    assert format_ok(text) is ok


def last_answer(text: str) -> str | None:
    """The same by splitting: of the parts before a close, the last that holds an open."""
    *closed, _ = text.split("</answer>")
    opened = [part.rsplit("<answer>", 1)[1] for part in closed if "<answer>" in part]
    return opened[-1].strip() if opened else None


def well_formed(text: str) -> bool:
    """The same by cutting the tags out in order."""
    for before, tag in zip(("", None, "", None), TAGS, strict=True):
        head, found, text = text.partition(tag)
        if not found or any(t in head for t in TAGS) or (before == "" and head.strip()):
            return False
    return not text.strip()


@settings(max_examples=500, deadline=None)
@given(HOSTILE)
@example("<think></answer></think><answer></answer>")
def test_hostile_text_is_read_as_by_an_independent_reader(text):
    assert answer_of(text) == last_answer(text)
    assert format_ok(text) is well_formed(text)


@settings(max_examples=200, deadline=None)
@given(body=UNTAGGED, thinking=UNTAGGED)
def test_whatever_is_written_between_the_tags_is_found(body, thinking):
    text = f"<think>{thinking}</think><answer>{body}</answer>"
    assert answer_of(text) == body.strip()
    assert format_ok(text)


@pytest.mark.parametrize(
    "text",
    [
        "x" * MEGA,
        "<answer>" * (MEGA // 8),
        "</answer>" * (MEGA // 9),
        "<answer></answer>" * (MEGA // 17),
        "</answer><answer>" * (MEGA // 17),
        "</answer>" * (MEGA // 18) + "<answer>" * (MEGA // 16),
        "<think>" * (MEGA // 7) + "</think><answer></answer>",
        "<think>" + " " * MEGA + "</think>" + " " * MEGA + "<answer>" + "(" * MEGA + "</answer>",
        "<" * MEGA,
        "<answer" * (MEGA // 7),
        "\0" * MEGA,
    ],
    ids=range(11),
)
def test_a_megabyte_takes_linear_time(text):
    """Some milliseconds; a scan per tag would take minutes, so a busy machine does not matter."""
    start = time.process_time()
    assert answer_of(text) == last_answer(text)
    assert format_ok(text) is (text.startswith("<think> ") or text == "")
    assert time.process_time() - start < 2


class Says:
    """A judge that finds right what ends in `right`."""

    def score(self, question: Question, text: str) -> float:
        return float(text.endswith(f"{question.answer}</answer>"))


QUESTION = Question("q", "says", "User: ?\nAssistant:", "right")
GOOD, BAD = "<think>a</think><answer>right</answer>", "<think>a</think><answer>wrong</answer>"


@pytest.mark.parametrize(
    "text, cfg, reward, breakdown",
    [
        (GOOD, RewardConfig(), 1.1, (1, 1)),
        (GOOD.removeprefix("<think>a</think>"), RewardConfig(), 1.0, (1, 0)),
        (BAD, RewardConfig(), 0.1, (0, 1)),
        (BAD.removeprefix("<think>a</think>"), RewardConfig(), 0.0, (0, 0)),
        ("", RewardConfig(), 0.0, (0, 0)),
        (GOOD, RewardConfig(accuracy=2.0, format=0.5), 2.5, (1, 1)),
        (BAD, RewardConfig(accuracy=2.0, format=0.5), 0.5, (0, 1)),
        (BAD, RewardConfig(format=0.0), 0.0, (0, 1)),
    ],
)
def test_reward_by_hand(text, cfg, reward, breakdown):
    assert score(text, QUESTION, Says(), cfg) == (reward, {"accuracy": breakdown[0], "format": breakdown[1]})


@settings(deadline=None)
@given(length=st.integers(0, 300), word=st.sampled_from(["wait", "check ", "检查", "so ", "x"]))
def test_nothing_rewards_length_or_reflection(length, word):
    for text in (GOOD, BAD):
        longer = text.replace(">a<", f">{word * length}<")
        assert score(longer, QUESTION, Says(), RewardConfig()) == score(text, QUESTION, Says(), RewardConfig())


def test_groups_get_reward_and_breakdown_of_their_own_question():
    def completion(text: str) -> Completion:
        return Completion([1], text, [0.0], [0.0], stopped=True)

    other = dataclasses.replace(QUESTION, answer="wrong")
    groups = [Group(q, [completion(GOOD), completion(BAD), completion("")]) for q in (QUESTION, other)]
    score_groups(groups, Says(), RewardConfig())
    assert [[c.reward for c in group.completions] for group in groups] == [[1.1, 0.1, 0.0], [0.1, 1.1, 0.0]]
    assert groups[1].completions[0].breakdown == {"accuracy": 0.0, "format": 1.0}


@pytest.mark.parametrize(
    "key, values",
    [
        ("accuracy", {"accuracy": 0.0}),
        ("format", {"format": -0.1}),
        ("format", {"format": 1.0}),  # a wrong answer would earn as much as a right one
        ("format", {"format": float("nan")}),
        ("accuracy", {"accuracy": float("nan")}),
        ("accuracy", {"accuracy": float("inf")}),
    ],
)
def test_rewards_that_do_not_pay_for_being_right_are_refused(key, values):
    with pytest.raises(ConfigError, match=f"reward.{key}"):
        RewardConfig(**values)
