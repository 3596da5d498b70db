"""Charts from frames, by hand-made numbers."""

import json
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import charts, export, points, reference
from dashboard.points import Figure

LENGTH = Figure("Length", "tokens", (("a", "all"), ("b", "right")))


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"step": [1.0, 2.0, 3.0], "tokens": [10.0, 20.0, 30.0], **columns})


def test_missing_values_leave_no_point() -> None:
    data = points.points({"r": frame(a=[1.0, np.nan, 3.0])}, LENGTH, "step")
    assert list(data["x"]) == [1.0, 3.0]
    assert list(data["value"]) == [1.0, 3.0]
    assert charts.curves({"r": frame()}, LENGTH) is None
    assert charts.curves({"r": frame(a=[np.nan] * 3)}, LENGTH) is None


def test_moving_mean_stays_within_a_run_and_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "FEW", 2)
    frames = {"r": frame(a=[1.0, 2.0, 6.0], b=[0.0, 0.0, 0.0]), "s": frame(a=[9.0, np.nan, 9.0])}
    data = points.points(frames, LENGTH, "step", 2)
    mean = {key: list(part["smooth"]) for key, part in data.groupby(["run", "series"])}
    assert mean == {("r", "all"): [1.0, 1.5, 4.0], ("r", "right"): [0.0, 0.0, 0.0], ("s", "all"): [9.0, 9.0]}


def test_a_long_name_is_not_cut_in_the_legend() -> None:
    def limits(*names: str) -> list[tuple[int, int]]:
        figure = Figure("x", "share", tuple(zip("ab", names, strict=True)))
        legends: list[dict] = []
        spec = json.dumps(charts.curves({"r": frame(a=[1.0, 2.0, 3.0], b=[1.0, 2.0, 3.0])}, figure).spec)
        json.loads(spec, object_hook=lambda found: legends.append(found.get("legend")) or found)
        return [(legend["columns"], legend["labelLimit"]) for legend in legends if legend]

    assert set(limits("cut", "whole")) == {(2, 150)}
    assert set(limits("groups of equal rewards", "cut")) == {(1, 330)}


def test_few_measurements_are_drawn_as_they_are() -> None:
    data = points.points({"r": frame(a=[1.0, 2.0, 6.0])}, LENGTH, "tokens", 2)
    assert list(data["smooth"]) == [1.0, 2.0, 6.0] and data["few"].all()
    assert list(data["x"]) == [10.0, 20.0, 30.0]


def test_thinning_keeps_ends_and_peaks() -> None:
    values = np.zeros(10_000)
    values[[1234, 7777]] = [5.0, -5.0]
    kept = points.thinned(values, 400)
    assert len(kept) <= 400 and {0, 1234, 7777, 9999} <= set(kept)
    assert (np.diff(kept) > 0).all()
    assert list(points.thinned(values[:400], 400)) == list(range(400))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=500), st.integers(6, 60))
def test_thinning_loses_no_extreme_of_any_series(values: list[float], limit: int) -> None:
    kept = points.thinned(np.array(values), limit)
    assert len(kept) <= limit
    assert {min(values), max(values), values[0], values[-1]} <= {values[i] for i in kept}


def test_a_long_line_is_thinned_for_the_page_and_whole_in_the_file() -> None:
    long = pd.DataFrame({"step": np.arange(5000.0), "a": np.arange(5000.0) % 7})
    chart = charts.curves({"r": long}, LENGTH, window=5)
    assert len(chart.data) <= points.MOST
    csv = export.made(chart, "CSV").decode().splitlines()
    assert len(csv) == 5001 and csv[0] == "run,series,x,step,value,smooth"


def test_downloads_are_pictures_of_the_chart() -> None:
    chart = charts.curves({"r": frame(a=[1.0, np.nan, 6.0])}, LENGTH)
    assert export.made(chart, "PNG").startswith(b"\x89PNG")
    svg = export.made(chart, "SVG").decode()
    assert svg.startswith("<svg") and ">Length<" in svg and f'stroke="{charts.COLOURS[0]}"' in svg


def test_wall_clock_counts_from_the_first_step() -> None:
    timed = frame(a=[1.0, 2.0, 3.0], time=[1000.0, 4600.0, np.nan])
    assert list(points.points({"r": timed}, LENGTH, "clock")["x"]) == [0.0, 1.0]


def test_band_spans_the_seeds_and_says_how_many() -> None:
    frames = {"s0": frame(a=[1.0, 2.0, 3.0]), "s1": frame(a=[3.0, 2.0, np.nan]), "other": frame(a=[9.0, 9.0, 9.0])}
    data = points.bands(frames, {"two": ["s0", "s1"], "other": ["other"]}, LENGTH, "step")
    two = data[data["run"] == "two"]
    assert two[["x", "low", "value", "high", "n"]].values.tolist() == [
        [1.0, 1.0, 2.0, 3.0, 2.0],
        [2.0, 2.0, 2.0, 2.0, 2.0],
        [3.0, 3.0, 3.0, 3.0, 1.0],
    ]
    assert set(data[data["run"] == "other"]["value"]) == {9.0}


def test_band_of_long_seeds_keeps_their_peaks() -> None:
    rng = np.random.default_rng(0)
    frames = {key: pd.DataFrame({"step": np.arange(9000.0), "a": rng.normal(size=9000)}) for key in "st"}
    frames["s"].loc[4321, "a"] = 50.0
    data = points.bands(frames, {"both": ["s", "t"]}, LENGTH, "step")
    assert len(data) <= points.MOST and data["high"].max() == 50.0
    assert (data["low"] <= data["value"]).all() and (data["value"] <= data["high"]).all()


def test_log_scale_leaves_out_what_has_no_logarithm() -> None:
    chart = charts.curves({"r": frame(a=[0.0, 2.0, 6.0])}, LENGTH, log=True)
    assert list(chart.data["value"]) == [2.0, 6.0]
    assert chart.spec["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"


def test_reference_is_drawn_first_and_by_step_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    curve = {"step": [1, 2], "low": [0.1, 0.2], "mean": [0.2, None], "high": [0.3, 0.4]}
    record = {"config": "quick", "commit": "0123456789", "seeds": [0, 1, 2], "metrics": {"a": curve}}
    (tmp_path / "quick.json").write_text(json.dumps(record))
    (tmp_path / "cut.json").write_text('{"config": "cu')
    assert reference.of_run("quick_s2", None, "zero") == "quick" and reference.of_run("own", "n", "zero") is None
    assert reference.of_run("quick_s2/zero", None, "zero") == "quick"
    (tmp_path / "quick_zero.json").write_text(json.dumps(record | {"commit": ["0123456789", "abcdef0123"]}))
    assert reference.of_run("quick_s2/zero", None, "zero") == "quick_zero"
    assert reference.band("quick_zero", "a").label.endswith("3 seeds, commits 01234567, abcdef01")
    assert reference.broken() == ["cut.json"]
    assert reference.band("quick", "b") is None and reference.band("../quick", "a") is None
    band = reference.band("quick", "a")
    assert band.rows == [{"x": 1.0, "low": 0.1, "mean": 0.2, "high": 0.3}] and "3 seeds" in band.label
    chart = charts.curves({"r": frame(a=[1.0, 2.0, 3.0])}, LENGTH, reference=band)
    assert chart.spec["layer"][0]["data"]["values"] == band.rows
    assert ">grey: reference quick" in export.made(chart, "SVG").decode()
    by_tokens = charts.curves({"r": frame(a=[1.0, 2.0, 3.0])}, LENGTH, x="tokens", reference=band)
    assert "data" not in by_tokens.spec["layer"][0]


def test_raw_values_stand_behind_the_smooth_line() -> None:
    raw, smooth = charts.curves({"r": frame(a=[1.0, 2.0, 6.0])}, LENGTH, window=2).spec["layer"][:2]
    assert (raw["encoding"]["y"]["field"], smooth["encoding"]["y"]["field"]) == ("value", "smooth")
    assert raw["mark"]["opacity"] < 0.5
    assert raw["encoding"]["x"]["title"] == "step"


def test_specs_are_vega_lite() -> None:
    frames = {"r": held_out_frame(), "s": frame(a=[1, 2, 3], b=[1, 2, 3])}
    figure = Figure("pass@1", "", points.held_out(list(frames["r"]), "pass_at_1"))
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
    figure = Figure("pass@1", "", points.held_out(list(held_out_frame()), "pass_at_1"))
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
    assert points.held_out(list(columns), r"pass_at_\d+") == (
        ("eval/countdown/pass_at_1", "pass@1"),
        ("eval/countdown/pass_at_8", "pass@8"),
    )
    both = points.held_out([*columns, "eval/gcd/pass_at_1"], "pass_at_1")
    assert [label for _, label in both] == ["pass@1, countdown", "pass@1, gcd"]


def test_first_and_last_do_not_overlap() -> None:
    assert points.first_and_last(frame(a=[1, 2, 6]), "a", 2) is None
    assert points.first_and_last(frame(a=[1, 2, 6]), "a", 1) == (1.0, 6.0)
    assert points.first_and_last(frame(), "a", 1) is None
