"""Schedules against values computed by hand."""

import pytest

from infra.errors import ConfigError
from training.schedules import By, Decay, Point, Schedule, ScheduleConfig, check_points, value_at


def test_learning_rate_rises_holds_and_falls_linearly():
    schedule = Schedule(ScheduleConfig(warmup=0.1, decay=0.5, final_ratio=0.2), total=1000)
    at = {0: 0.0, 50: 0.5, 100: 1.0, 500: 1.0, 750: 0.6, 1000: 0.2, 2000: 0.2}
    assert {position: schedule.at(position).lr_scale for position in at} == pytest.approx(at)


def test_cosine_decay_is_half_way_down_in_the_middle():
    schedule = Schedule(ScheduleConfig(warmup=0, decay=1, decay_shape=Decay.cosine, final_ratio=0.1), total=10)
    assert schedule.at(0).lr_scale == pytest.approx(1.0)
    assert schedule.at(5).lr_scale == pytest.approx(0.55)
    assert schedule.at(2.5).lr_scale == pytest.approx(0.1 + 0.9 * (1 + 2**-0.5) / 2)
    assert schedule.at(10).lr_scale == pytest.approx(0.1)


def test_no_warmup_and_no_decay_is_constant():
    schedule = Schedule(ScheduleConfig(warmup=0, decay=0), total=10)
    assert [schedule.at(p).lr_scale for p in (0, 5, 10, 11)] == [1.0] * 4


def test_mtp_weight_drops_late_and_bias_stops_at_the_end():
    schedule = Schedule(ScheduleConfig(mtp_lambda=0.3, mtp_lambda_late=0.1, mtp_late=0.32, bias_still=0.1), total=100)
    assert [schedule.at(p).mtp_lambda for p in (0, 67, 68, 99)] == [0.3, 0.3, 0.1, 0.1]
    assert [schedule.at(p).bias_speed for p in (0, 89, 90)] == [1e-3, 1e-3, 0.0]


@pytest.mark.parametrize("share", [0.0, 0.25, 1 / 3, 0.5, 1.0])
def test_share_of_steps_with_mtp_is_kept_whatever_the_position(share):
    schedule = Schedule(ScheduleConfig(mtp_share=share), total=1e6)
    chosen = [step for step in range(1200) if schedule.at(4096.0 * step, step).mtp_lambda > 0]
    assert len(chosen) == pytest.approx(1200 * share, abs=1)
    gaps = {b - a for a, b in zip(chosen, chosen[1:], strict=False)}
    assert len(gaps) <= 2  # spread evenly


def test_points_are_joined_by_lines_cosines_and_jumps():
    points = [
        Point(at=10, value=2.0),
        Point(at=20, value=4.0),
        Point(at=40, value=1.0, by=By.cosine),
        Point(at=50, value=3.0, by=By.jump),
    ]
    at = {0: 2.0, 10: 2.0, 15: 3.0, 20: 4.0, 30: 2.5, 40: 1.0, 49: 1.0, 50: 3.0, 1000: 3.0}
    assert {place: value_at(points, place) for place in at} == pytest.approx(at)
    assert value_at(points, 25) == pytest.approx(1.0 + 3.0 * (1 + 2**-0.5) / 2)


def test_points_take_the_place_of_fractions():
    cfg = ScheduleConfig(
        lr_points=[Point(at=0, value=1.0), Point(at=10, value=0.5)],
        mtp_points=[Point(value=0.3), Point(at=6, value=0.1, by=By.jump)],
        bias_points=[Point(value=0.002), Point(at=8, value=0.0, by=By.jump)],
        mtp_share=0.5,
    )
    schedule = Schedule(cfg, total=10)
    assert [schedule.at(p).lr_scale for p in (0, 5, 10)] == [1.0, 0.75, 0.5]
    assert [schedule.at(p, step=1).mtp_lambda for p in (5, 6)] == [0.3, 0.1] and schedule.at(5, step=2).mtp_lambda == 0
    assert [schedule.at(p).bias_speed for p in (7, 8)] == [0.002, 0.0]


@pytest.mark.parametrize("places", [[0, 5, 5], [3, 2]])
def test_points_out_of_order_are_refused(places):
    with pytest.raises(ConfigError, match="schedule.lr_points=.*put points in order"):
        ScheduleConfig(lr_points=[Point(at=place, value=1.0) for place in places])
    with pytest.raises(ConfigError, match="pretrain.batch_points"):
        check_points("pretrain.batch_points", [Point(at=place, value=1.0) for place in places])


@pytest.mark.parametrize("wrong", [{"warmup": 1.5}, {"decay": -0.1}, {"warmup": 0.6, "decay": 0.6}, {"bias_speed": -1}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ConfigError, match="schedule"):
        ScheduleConfig(**wrong)
