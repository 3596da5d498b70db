"""pass@k against counting, majority by hand, and whether the interval covers what it claims to."""

from itertools import combinations

import numpy as np
import pytest

from rl.evaluate_stats import bootstrap_interval, bootstrap_ratio, majority_at_k, pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples):
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            subsets = list(combinations(answers, k))
            assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(16, 4, 1) == 0.25
    assert pass_at_k(1000, 1, 500) == 0.5  # numbers too large for products of floats
    assert pass_at_k(3, 2, 2) == 1.0


@pytest.mark.parametrize("samples, right, k", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_impossible_counts_are_refused(samples, right, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, right, k)


@pytest.mark.parametrize(
    "answers, accuracies, expected",
    [
        (["7", "8", "7", None], [0, 1, 0, 0], 0.0),
        (["7", "8", "8"], [0, 1, 1], 1.0),
        (["7", "8"], [0, 1], 0.0),  # a tie: the first given
        (["8", "7"], [1, 0], 1.0),
        (["7", "8", "9", "8", "7"], [0, 1, 0, 1, 0], 0.0),  # a tie after five: 7 was given first
        (["9", "8", "7", "8", "7"], [0, 1, 0, 1, 0], 1.0),  # the same for 8; 9 came before both
        ([None, None, "8"], [0, 0, 1], 1.0),  # no answer does not vote
        ([None, None], [0, 0], 0.0),
        ([], [], 0.0),
        (["", "", "8"], [0, 0, 1], 0.0),  # an empty answer is one
    ],
)
def test_majority_by_hand(answers, accuracies, expected):
    assert majority_at_k(answers, accuracies) == expected


def test_majority_wants_an_accuracy_for_each_answer():
    with pytest.raises(ValueError):
        majority_at_k(["7", "8"], [1.0])


@pytest.mark.parametrize("level, share", [(0.95, 0.3), (0.8, 0.3), (0.95, 0.7)])
def test_interval_covers_the_truth_as_often_as_it_claims(level, share):
    rng = np.random.default_rng(0)
    trials, covered = 600, 0
    for trial in range(trials):
        values = (rng.random(100) < share).astype(float)
        mean, low, high = bootstrap_interval(values, level=level, resamples=400, seed=trial)
        assert low <= mean <= high and mean == values.mean()
        covered += low <= share <= high
    assert abs(covered / trials - level) < 0.04


def test_interval_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    mean, low, high = bootstrap_interval(values, resamples=4000)
    expected = 2 * 1.96 * values.std() / 400**0.5
    assert high - low == pytest.approx(expected, rel=0.06)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.03)


def test_interval_depends_on_values_and_seed_only():
    values = [0.0, 1.0, 1.0, 0.25] * 5
    assert bootstrap_interval(values) == bootstrap_interval(np.array(values))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5, 0.5)


def test_a_wider_level_contains_a_narrower_one():
    values = np.random.default_rng(2).random(60)
    _, low, high = bootstrap_interval(values, level=0.8)
    _, lower, higher = bootstrap_interval(values, level=0.99)
    assert lower < low < high < higher


@pytest.mark.parametrize("values", [[], [[0.0, 1.0]]])
def test_interval_wants_one_value_a_question(values):
    with pytest.raises(ValueError, match="one value a question"):
        bootstrap_interval(values)


def test_ratio_by_hand_and_as_the_plain_mean_where_all_count_alike():
    assert bootstrap_ratio([10, 0], [2, 0]) == (5.0, 5.0, 5.0)  # draws of the second question alone say nothing
    assert bootstrap_ratio([0, 0], [0, 0]) is None
    mean, low, high = bootstrap_ratio([10, 60], [1, 3])
    assert (mean, low, high) == (17.5, 10.0, 20.0)
    values = np.random.default_rng(3).random(50)
    assert bootstrap_ratio(values * 4, np.full(50, 4)) == pytest.approx(bootstrap_interval(values))
    with pytest.raises(ValueError, match="one sum and one count"):
        bootstrap_ratio([1, 2], [1])
