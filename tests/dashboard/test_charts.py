"""Charts from frames, by hand-made numbers."""

import numpy as np
import pandas as pd

from dashboard import charts
from dashboard.charts import Figure

LENGTH = Figure("Length", "tokens", (("a", "all"), ("b", "right")))


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"step": [1.0, 2.0, 3.0], "tokens": [10.0, 20.0, 30.0], **columns})


def test_missing_values_leave_no_point() -> None:
    data = charts.melted({"r": frame(a=[1.0, np.nan, 3.0])}, LENGTH, "step")
    assert list(data["x"]) == [1.0, 3.0]
    assert list(data["value"]) == [1.0, 3.0]
    assert charts.curves({"r": frame()}, LENGTH) is None
    assert charts.curves({"r": frame(a=[np.nan] * 3)}, LENGTH) is None


def test_moving_mean_stays_within_a_run_and_a_series() -> None:
    frames = {"r": frame(a=[1.0, 2.0, 6.0], b=[0.0, 0.0, 0.0]), "s": frame(a=[9.0, 9.0, 9.0])}
    data = charts.smoothed(charts.melted(frames, LENGTH, "step"), 2)
    mean = {key: list(part["smooth"]) for key, part in data.groupby(["run", "series"])}
    assert mean[("r", "all")] == [1.0, 1.5, 4.0]
    assert mean[("r", "right")] == [0.0, 0.0, 0.0]
    assert mean[("s", "all")] == [9.0, 9.0, 9.0]


def test_thinning_keeps_ends_and_peaks() -> None:
    values = np.zeros(10_000)
    values[[1234, 7777]] = [5.0, -5.0]
    data = pd.DataFrame({"run": "r", "series": "s", "x": np.arange(10_000.0), "value": values})
    thin = charts.thinned(data, 400)
    assert len(thin) <= 400
    assert {0.0, 1234.0, 7777.0, 9999.0} <= set(thin["x"])
    assert thin["x"].is_monotonic_increasing
    assert len(charts.thinned(data.head(400), 400)) == 400


def test_raw_values_stand_behind_the_smooth_line() -> None:
    spec = charts.curves({"r": frame(a=[1.0, 2.0, 6.0])}, LENGTH, window=2).to_dict()
    raw, smooth = spec["layer"][:2]
    assert (raw["encoding"]["y"]["field"], smooth["encoding"]["y"]["field"]) == ("value", "smooth")
    assert raw["mark"]["opacity"] < 0.5
    assert spec["layer"][0]["encoding"]["x"]["title"] == "step"


def test_runs_keep_their_colour_in_every_chart_and_one_run_is_coloured_by_series() -> None:
    one = charts.curves({"r": frame(a=[1, 2, 3], b=[1, 2, 3])}, LENGTH).to_dict()["layer"][0]["encoding"]
    assert one["color"]["scale"]["domain"] == ["all", "right"]
    assert "strokeDash" not in one
    two = charts.curves({"r": frame(), "s": frame(a=[1, 2, 3], b=[1, 2, 3])}, LENGTH).to_dict()["layer"][0]["encoding"]
    assert two["color"]["scale"] == {"domain": ["r", "s"], "range": list(charts.COLOURS[:2])}
    assert two["strokeDash"]["scale"]["domain"] == ["all", "right"]


def test_interval_is_drawn_where_it_was_measured() -> None:
    figure = Figure("pass@1", "", charts.held_out({"r": held_out_frame()}, "pass_at_1"))
    assert figure.metrics == ("eval/t/pass_at_1",)
    chart = charts.intervals({"r": held_out_frame()}, figure)
    (rows,) = chart.to_dict()["datasets"].values()
    assert [(r["low"], r["value"], r["high"]) for r in rows] == [(0.1, 0.2, 0.3), (None, 0.4, None)]


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
