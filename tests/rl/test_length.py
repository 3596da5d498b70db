"""Kimi's length reward by hand, its bounds on any group, and its warm-up in score_groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.rewards.base import RewardConfig, score_groups
from rl.rewards.length import length_rewards
from rl.types import Completion, Group, Question

GROUPS = st.lists(st.tuples(st.integers(1, 10_000), st.booleans()), min_size=1, max_size=16)


@pytest.mark.parametrize(
    "lengths, right, rewards",
    [
        ([100, 200, 300], [True, True, True], [0.5, 0.0, -0.5]),
        ([100, 200, 300], [False, False, False], [0.0, 0.0, -0.5]),
        (
            [10, 35, 85, 110],
            [True, False, True, False],
            [0.5, 0.0, -0.25, -0.5],
        ),  # the longest one is wrong
        ([40, 10], [True, False], [-0.5, 0.0]),
        ([7, 7, 7], [True, False, True], [0.0, 0.0, 0.0]),
        ([5], [True], [0.0]),
    ],
)
def test_length_reward_by_hand(lengths, right, rewards):
    assert length_rewards(lengths, right) == pytest.approx(rewards)


@given(GROUPS)
def test_shorter_earns_no_less_and_right_no_less_than_wrong(group):
    lengths, right = map(list, zip(*group, strict=True))
    rewards = length_rewards(lengths, right)
    assert all(-0.5 <= reward <= 0.5 for reward in rewards)
    for flag in (True, False):
        same = sorted((n, r) for n, r, is_right in zip(lengths, rewards, right, strict=True) if is_right is flag)
        assert [r for _, r in same] == sorted((r for _, r in same), reverse=True)
    flipped = length_rewards(lengths, [not one for one in right])
    assert all((a >= b) if ok else (a <= b) for a, b, ok in zip(rewards, flipped, right, strict=True))
    if max(lengths) > min(lengths):
        longest = lengths.index(max(lengths))
        assert rewards[longest] == -0.5  # right or wrong


class Judge:
    def score(self, question: Question, text: str) -> float:
        return float(text == "right")


def groups() -> list[Group]:
    def answer(text: str, length: int, **changes) -> Completion:
        return Completion([1] * length, text, [0.0] * length, [], stopped=True, **changes)

    answers = [answer("right", 10), answer("right", 20), answer("wrong", 30), answer("wrong", 10, repeats=True)]
    return [Group(Question("q", "t", "", "right"), answers)]


def rewards(cfg: RewardConfig, **told) -> list[float]:
    scored = groups()
    score_groups(scored, Judge(), cfg, **told)
    return [c.reward for c in scored[0].completions]


def test_the_length_reward_is_off_by_default():
    assert rewards(RewardConfig()) == [1.0, 1.0, 0.0, 0.0]
    scored = groups()
    score_groups(scored, Judge(), RewardConfig())
    assert set(scored[0].completions[0].breakdown) == {"accuracy", "format"}


def test_it_is_weighed_and_warmed_up_and_kept_in_the_breakdown():
    cfg = RewardConfig(length=0.4, length_warmup=0.25)
    assert rewards(cfg, progress=0.24) == [1.0, 1.0, 0.0, 0.0]
    assert rewards(cfg, progress=0.25) == pytest.approx([1.2, 1.0, -0.2, 0.0])
    for progress in (0.0, 1.0):
        scored = groups()
        score_groups(scored, Judge(), cfg, progress=progress)
        assert [c.breakdown["length"] for c in scored[0].completions] == pytest.approx([0.5, 0.0, -0.5, 0.0])


def test_repetition_costs_what_is_set():
    assert rewards(RewardConfig(repetition=0.3)) == pytest.approx([1.0, 1.0, 0.0, -0.3])


@pytest.mark.parametrize(
    "key, values",
    [
        ("length", dict(length=-0.1)),
        ("length", dict(length=1.8)),  # the longest right answer would earn what a wrong one does
        ("length", dict(length=float("nan"))),
        ("length_warmup", dict(length_warmup=1.1)),
        ("repetition", dict(repetition=-1.0)),
    ],
)
def test_impossible_weights_are_refused(key, values):
    with pytest.raises(ConfigError, match=f"reward.{key}"):
        RewardConfig(**values)
