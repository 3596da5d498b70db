"""The verdict on made-up results: effect, none, too few seeds, no number, and intervals against tables."""

import math

import pytest

from experiments.claims.claim import Rule
from experiments.claims.stats import interval, judge
from experiments.claims.table import number

ABOVE = Rule(name="gain", of="a.x", above=0.0)


def seeds(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values))


def test_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    half = 4.30265 / math.sqrt(3)  # the table's t for two degrees of freedom, 95 %; the spread is 1
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-5)


def test_bootstrap_interval_lies_within_the_values_and_around_the_mean():
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0], "bootstrap")
    assert 1.0 < low < mean == 3.0 < high < 5.0


@pytest.mark.parametrize(
    ("rule", "values", "verdict"),
    [
        (ABOVE, (0.5, 0.6, 0.4, 0.5, 0.55), "reproduced"),
        (ABOVE, (-0.5, -0.6, -0.4, -0.5, -0.55), "not reproduced"),
        (ABOVE, (0.5, -0.6, 0.4, -0.5, 0.1), "inconclusive"),
        (ABOVE, (0.0, 0.0, 0.0, 0.0, 0.0), "not reproduced"),
        (Rule(name="cost", of="a.x", below=1.0), (0.5, 0.6, 0.4, 0.5, 0.55), "reproduced"),
        (Rule(name="cost", of="a.x", below=1.0), (1.5, 1.6, 1.4, 1.5, 1.55), "not reproduced"),
        (Rule(name="cost", of="a.x", below=1.0), (1.5, 0.6, 1.4, 0.5, 1.05), "inconclusive"),
        (Rule(name="same", of="a.x", within=0.25), (0.01, -0.02, 0.03, 0.0, -0.01), "reproduced"),
        (Rule(name="same", of="a.x", within=0.25), (-0.5, -0.6, -0.4, -0.5, -0.55), "not reproduced"),
        (Rule(name="same", of="a.x", within=0.25), (0.3, 0.2, 0.25, 0.1, 0.4), "inconclusive"),
    ],
)
def test_verdict_follows_the_side_of_the_bound_that_the_interval_lies_on(rule, values, verdict):
    assert judge(rule, seeds(*values)).verdict == verdict


def test_four_seeds_give_no_verdict_however_large_the_effect():
    found = judge(ABOVE, seeds(10.0, 10.1, 9.9, 10.0))
    assert found.verdict == "inconclusive" and "4 of at least 5" in found.reason
    assert found.low > 0  # which is told all the same


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_seed_without_a_number_makes_it_inconclusive_and_is_named(missing):
    found = judge(ABOVE, seeds(0.5, 0.6, 0.4, missing, 0.5, 0.5, 0.6))
    assert found.verdict == "inconclusive" and found.reason == "no number in seed 3"
    assert found.mean == pytest.approx(0.5167, abs=1e-4)


def test_nothing_run_is_inconclusive():
    for fixed in (False, True):
        found = judge(ABOVE, {}, fixed=fixed)
        assert (found.verdict, found.reason, found.mean) == ("inconclusive", "not run", None)


def test_one_number_is_enough_where_nothing_is_drawn():
    assert judge(ABOVE, seeds(0.1), fixed=True).verdict == "reproduced"
    assert judge(ABOVE, seeds(-0.1), fixed=True).verdict == "not reproduced"
    assert judge(ABOVE, seeds(0.1)).verdict == "inconclusive"


def test_an_open_verdict_says_how_many_seeds_or_what_scale_would_tell():
    near = judge(ABOVE, seeds(0.5, -0.3, 0.6, -0.2, 0.5), larger="a larger base")
    wanted = int(near.reason.split("about ")[1].split()[0])
    assert 5 < wanted < 100
    # With as many seeds of the same mean and spread the interval is off the bound.
    half = (near.high - near.low) / 2 * math.sqrt(5 / wanted)
    assert near.mean - half > 0
    nothing = judge(ABOVE, seeds(0.5, -0.5, 0.5, -0.5, 0.001), larger="a larger base")
    assert "a larger base" in nothing.reason


def test_a_rule_without_a_bound_is_told_only():
    found = judge(Rule(name="tokens", of="a.x"), seeds(1.0, 2.0))
    assert (found.verdict, found.mean) == ("", 1.5)


def test_statistics_of_a_seed():
    values = {"a": {"x": 3.0, "y": 1.0, "none": None}, "b": {"x": 2.0, "zero": 0.0}}

    def of(**rule: str) -> float | None:
        return number(Rule(name="n", above=0.0, **rule), values)

    assert of(of="a.x") == 3.0
    assert of(of="a.x + a.y", minus="b.x") == 2.0
    assert of(of="a.x", over="b.x") == 1.5
    assert of(of="a.x", percent_of="b.x") == pytest.approx(50.0)
    assert of(of="a.x", percent_of="2.4e0") == pytest.approx(25.0)
    assert of(of="a.none", minus="b.x") is None
    assert of(of="a.unknown") is None
    assert of(of="a.x", over="b.zero") is None
