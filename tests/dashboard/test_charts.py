"""Charts from frames, by hand-made numbers."""

import altair as alt
import numpy as np
import pandas as pd
import pytest

from dashboard import charts
from dashboard.charts import Figure

LENGTH = Figure("Length", "tokens", (("a", "all"), ("b", "right")))


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"step": [1.0, 2.0, 3.0], "tokens": [10.0, 20.0, 30.0], **columns})


def test_missing_values_leave_no_point() -> None:
    data = charts.points({"r": frame(a=[1.0, np.nan, 3.0])}, LENGTH, "step")
    assert list(data["x"]) == [1.0, 3.0]
    assert list(data["value"]) == [1.0, 3.0]
    assert charts.curves({"r": frame()}, LENGTH) is None
    assert charts.curves({"r": frame(a=[np.nan] * 3)}, LENGTH) is None


def test_moving_mean_stays_within_a_run_and_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "FEW", 2)
    frames = {"r": frame(a=[1.0, 2.0, 6.0], b=[0.0, 0.0, 0.0]), "s": frame(a=[9.0, np.nan, 9.0])}
    data = charts.points(frames, LENGTH, "step", 2)
    mean = {key: list(part["smooth"]) for key, part in data.groupby(["run", "series"])}
    assert mean == {("r", "all"): [1.0, 1.5, 4.0], ("r", "right"): [0.0, 0.0, 0.0], ("s", "all"): [9.0, 9.0]}


def test_few_measurements_are_drawn_as_they_are() -> None:
    data = charts.points({"r": frame(a=[1.0, 2.0, 6.0])}, LENGTH, "tokens", 2)
    assert list(data["smooth"]) == [1.0, 2.0, 6.0] and data["few"].all()
    assert list(data["x"]) == [10.0, 20.0, 30.0]


def test_thinning_keeps_ends_and_peaks() -> None:
    values = np.zeros(10_000)
    values[[1234, 7777]] = [5.0, -5.0]
    kept = charts.thinned(values, 400)
    assert len(kept) <= 400 and {0, 1234, 7777, 9999} <= set(kept)
    assert (np.diff(kept) > 0).all()
    assert list(charts.thinned(values[:400], 400)) == list(range(400))


def test_raw_values_stand_behind_the_smooth_line() -> None:
    raw, smooth = charts.curves({"r": frame(a=[1.0, 2.0, 6.0])}, LENGTH, window=2).spec["layer"][:2]
    assert (raw["encoding"]["y"]["field"], smooth["encoding"]["y"]["field"]) == ("value", "smooth")
    assert raw["mark"]["opacity"] < 0.5
    assert raw["encoding"]["x"]["title"] == "step"


def test_specs_are_vega_lite() -> None:
    frames = {"r": held_out_frame(), "s": frame(a=[1, 2, 3], b=[1, 2, 3])}
    figure = Figure("pass@1", "", charts.held_out(frames, "pass_at_1"))
    for chart in (charts.curves(frames, LENGTH, window=3), charts.intervals(frames, figure)):
        alt.LayerChart.from_dict({**chart.spec, "data": {"values": []}}, validate=True)


def test_runs_keep_their_colour_in_every_chart_and_one_run_is_coloured_by_series() -> None:
    one = charts.curves({"r": frame(a=[1, 2, 3], b=[1, 2, 3])}, LENGTH).spec["layer"][0]["encoding"]
    assert one["color"]["scale"]["domain"] == ["all", "right"]
    assert "strokeDash" not in one
    two = charts.curves({"r": frame(), "s": frame(a=[1, 2, 3], b=[1, 2, 3])}, LENGTH).spec["layer"][0]["encoding"]
    assert two["color"]["scale"] == {"domain": ["r", "s"], "range": list(charts.COLOURS[:2])}
    assert two["strokeDash"]["scale"]["domain"] == ["all", "right"]


def test_interval_is_drawn_where_it_was_measured() -> None:
    figure = Figure("pass@1", "", charts.held_out({"r": held_out_frame()}, "pass_at_1"))
    assert figure.metrics == ("eval/t/pass_at_1",)
    data = charts.intervals({"r": held_out_frame()}, figure).data
    assert data[["low", "value", "high"]].iloc[0].tolist() == [0.1, 0.2, 0.3]
    assert data["value"][1] == 0.4 and data[["low", "high"]].iloc[1].isna().all()


def held_out_frame() -> pd.DataFrame:
    nan = np.nan
    ends = {"eval/t/pass_at_1_low": [0.1, nan, nan], "eval/t/pass_at_1_high": [0.3, nan, nan]}
    return frame(**{"eval/t/pass_at_1": [0.2, nan, 0.4]}, **ends)


def test_held_out_names_the_task_only_where_there_are_several() -> None:
    columns = {"eval/countdown/pass_at_8": [1] * 3, "eval/countdown/pass_at_1": [1] * 3}
    assert charts.held_out({"r": frame(**columns)}, r"pass_at_\d+") == (
        ("eval/countdown/pass_at_1", "pass@1"),
        ("eval/countdown/pass_at_8", "pass@8"),
    )
    both = charts.held_out({"r": frame(**columns), "s": frame(**{"eval/gcd/pass_at_1": [1] * 3})}, "pass_at_1")
    assert [label for _, label in both] == ["pass@1, countdown", "pass@1, gcd"]


def test_first_and_last_do_not_overlap() -> None:
    assert charts.first_and_last(frame(a=[1, 2, 6]), "a", 2) is None
    assert charts.first_and_last(frame(a=[1, 2, 6]), "a", 1) == (1.0, 6.0)
    assert charts.first_and_last(frame(), "a", 1) is None
