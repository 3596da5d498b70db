"""Every page in Streamlit's own test client: with runs, without, and with broken files."""

import json
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.dashboard.made import BEACON, metrics_line, write_run

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
PAGES = ("runs", "curves", "thinking", "samples")


def open_page(page: str, **params: object) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=300)
    for name, value in params.items():
        app.query_params[name] = value
    return app.switch_page(f"views/{page}.py").run() if page != "runs" else app.run()


def shown(app: AppTest) -> str:
    """All text that stands on the page outside of charts."""
    blocks = [*app.info, *app.warning, *app.caption, *app.markdown, *app.title]
    return "\n".join(str(block.value) for block in blocks) + html_of(app)


def html_of(app: AppTest) -> str:
    return "\n".join(block.proto.body for block in app.get("html"))


def charts(app: AppTest) -> int:
    return len(app.get("vega_lite_chart")) + len(app.get("arrow_vega_lite_chart"))


@pytest.mark.parametrize("page", PAGES)
def test_empty_store_says_which_command_makes_data(runs: Path, page: str) -> None:
    app = open_page(page)
    assert not app.exception
    assert "make quick" in shown(app)


@pytest.mark.parametrize("page", PAGES)
def test_page_with_runs_has_no_error(runs: Path, page: str) -> None:
    write_run(runs / "reproduce" / "zero")
    write_run(runs / "other", samples=())
    app = open_page(page, run=["reproduce/zero", "other"])
    assert not app.exception
    assert not app.warning
    assert "make quick" not in shown(app)


def test_runs_lists_facts_and_shows_missing_as_missing(runs: Path) -> None:
    write_run(runs / "reproduce" / "zero")
    bare = write_run(runs / "bare", steps=0, samples=())
    (bare / "run.json").unlink()
    table = open_page("runs").dataframe[0].value.set_index("run")
    zero = table.loc["reproduce/zero"]
    assert zero["pass@1"] == "0.400 [0.350, 0.450]"
    assert list(zero[["stage", "scale", "task", "seed", "steps", "commit", "name"]]) == [
        "zero",
        "tiny",
        "countdown",
        "7",
        40,
        "01234567",
        "name-zero",
    ]
    assert "finished" in zero["status"]
    assert table.loc["bare"][["stage", "seed", "steps", "pass@1", "commit"]].isna().all()


def test_run_in_the_address_is_chosen_and_an_unknown_one_is_not_opened(runs: Path) -> None:
    write_run(runs / "a")
    write_run(runs / "b")
    assert open_page("thinking", run="a").multiselect(key="run").value == ["a"]
    outside = write_run(runs.parent / "outside")
    app = open_page("thinking", run=["../outside", str(outside)])
    assert app.multiselect(key="run").value == []
    assert charts(app) == 0
    assert "No run is chosen" in shown(app)


def specs(app: AppTest) -> str:
    return "".join(chart.proto.spec for chart in app.get("vega_lite_chart"))


def test_runs_filters_and_search_are_in_the_address(runs: Path) -> None:
    write_run(runs / "a" / "zero", status="RUNNING", config={"rl": {"steps": 160}})
    write_run(runs / "b" / "zero", task="gcd")
    app = open_page("runs")
    table = app.dataframe[0].value.set_index("run")
    assert table.loc["a/zero", "done"] == 0.25 and table.loc["a/zero", "left"] == "4 min"  # 120 steps, 2 s each
    assert table.loc["b/zero"][["done", "left", "steps/min"]].isna().all()
    app.multiselect(key="task").set_value(["gcd"]).run()
    assert list(app.dataframe[0].value["run"]) == ["b/zero"] and "1 of 2 runs fit; 1 running" in shown(app)
    app.multiselect(key="task").set_value([]).run()
    app.text_input(key="q").set_value("ZERO a/").run()
    assert list(app.dataframe[0].value["run"]) == ["a/zero"]
    linked = open_page("runs", status="finished", stage="zero")
    assert list(linked.dataframe[0].value["run"]) == ["b/zero"]
    assert "No run fits" in shown(open_page("runs", q="nothing has this"))


def test_runs_shows_in_what_the_picked_ones_differ(runs: Path) -> None:
    write_run(runs / "a", config={"rl": {"lr": 1e-5, "steps": 40}, "scale": "tiny"})
    write_run(runs / "b", config={"rl": {"lr": 2e-5, "steps": 40}, "scale": "tiny", "own": {"x": 1}})
    table = open_page("runs", run=["a", "b"]).dataframe[1].value
    assert table[["a", "b"]].fillna("missing").values.tolist() == [["1e-05", "2e-05"], ["missing", "1"]]
    assert list(table["setting"]) == ["rl.lr", "own.x"]


def test_curves_draws_every_metric_in_some_part(runs: Path) -> None:
    write_run(runs / "zero")
    app = open_page("curves")
    parts = app.button_group(key="part").options
    drawn = specs(app)
    assert charts(app) == 7 and "pass@1, 95 % interval" in drawn
    for part in parts[1:]:
        app.button_group(key="part").set_value(part).run()
        assert not app.exception and charts(app) > 0
        drawn += specs(app)
    assert "own/metric" in drawn
    for title in ("Time of a step", "Clipped and capped tokens", "pass@k and majority@k", "Training speed"):
        assert title in drawn
    app.text_input(key="metric").set_value("OWN/met").run()
    assert charts(app) == 1 and "own/metric" in specs(app)


def test_curves_axis_scale_and_seeds_are_in_the_address(runs: Path) -> None:
    for seed in (1, 2):
        config = {"run": {"seed": seed, "dir": f"runs/s{seed}/zero"}, "rl": {"checkpoint": f"runs/s{seed}/base"}}
        write_run(runs / f"s{seed}" / "zero", seed=seed, config=config)
    write_run(runs / "s3" / "zero", seed=3, config={"rl": {"checkpoint": "runs/another/base"}})
    keys = [f"s{i}/zero" for i in (1, 2, 3)]
    app = open_page("curves", run=keys, x="clock", log="true", seeds="band over seeds")
    assert not app.exception
    drawn = specs(app)
    assert "hours since the first step" in drawn and '"type": "log"' in drawn.replace('":"', '": "')
    assert "area" in drawn and "s1/zero, 2 seeds" in drawn and "s2/zero" not in drawn
    app.button_group(key="seeds").set_value("each run").run()
    assert "s2/zero" in specs(app)


def test_a_chart_has_its_downloads(runs: Path) -> None:
    write_run(runs / "zero")
    app = open_page("curves", metric="entropy")
    labels = [button.proto.label for button in app.get("download_button")]
    assert labels == ["PNG", "SVG", "CSV"] * charts(app)


def test_thinking_shows_growth_of_one_run(runs: Path) -> None:
    folder = write_run(runs / "zero", config={"sampling": {"max_response_tokens": 48}})
    app = open_page("thinking")
    response = app.metric[0]
    assert (response.label, response.value) == ("Response tokens", "58.0")
    assert "23.0" in response.delta
    assert charts(app) == 8
    assert "limit 48" in specs(app) and "truncated" in specs(app) and "evaluate.budget" in shown(app)
    score = {"pass_at_1": {"mean": 0.5, "low": 0.4, "high": 0.6}, "thinking_tokens": 40.0, "questions": 8, "samples": 2}
    budget = {"points": [{"budget": 16, **score}], "free": score}
    asked = runs / "measured"
    asked.mkdir()
    (asked / "budget.json").write_text(json.dumps(budget))
    (asked / "config.yaml").write_text(f"scale: tiny\nevaluate:\n  questions: 8\n  checkpoint: {folder}/model\n")
    st.cache_resource.clear()
    app.button_group(key="length").set_value("thinking").run()
    assert charts(app) == 9 and "thinking tokens allowed" in specs(app) and "limit 48" not in specs(app)
    (asked / "budget.json").write_text('{"points": [')
    app.run()
    assert charts(app) == 8 and not app.exception
    assert "measured/budget.json can't be read" in shown(app).replace("\\", "")


def test_samples_filters_and_opens_the_address(runs: Path) -> None:
    write_run(runs / "zero")
    app = open_page("samples")
    assert "8 of 8 answers fit, to 2 of 2 questions" in shown(app)
    assert app.select_slider[0].value == 40
    app.text_input[0].set_value("CHECK: 8*8").run()
    assert "2 of 8 answers fit" in shown(app)
    app.text_input[0].set_value("").run()
    app.button_group(key="result").set_value("right").run()
    assert "1 of 8 answers fit, to 1 of 2 questions" in shown(app)
    app.button_group(key="result").set_value("cut").run()
    assert "2 of 8 answers fit" in shown(app)
    app.toggle(key="checks").set_value(True).run()
    assert "No answer of this step fits" in shown(app)
    assert not app.exception

    linked = open_page("samples", run="zero", step="10", question="countdown/train/8")
    assert linked.select_slider[0].value == 10
    assert linked.selectbox[0].value == "countdown/train/8"
    assert "step 10: " in html_of(linked)
    assert "teaches nothing" in shown(linked)


def test_hostile_text_stands_escaped_and_never_in_markdown(runs: Path) -> None:
    write_run(runs / "zero")
    app = open_page("samples")
    html = html_of(app)
    assert "<script" not in html and "<img" not in html and "\x1b" not in html and "\u202e" not in html
    assert "&lt;script&gt;" in html and "\\x1b" in html and "\\u202e" in html
    assert '<mark class="r1-check">wait</mark>' in html and '<mark class="r1-check">等等</mark>' in html
    assert "more characters" in html and len(html) < 500_000
    outside = [*app.markdown, *app.caption, *app.info, *app.warning]
    assert not any(BEACON in str(block.value) for block in outside)


@pytest.mark.parametrize("page", PAGES)
def test_broken_files_give_a_message(runs: Path, page: str) -> None:
    folder = write_run(runs / "zero", samples=())
    (folder / "run.json").write_text('{"name": "ze')
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("garbage\n" + metrics_line(41) + '{"step": 42, "met')
    (folder / "samples").mkdir()
    (folder / "samples" / "step_000010.parquet").write_bytes(b"PAR1 cut short")
    (runs.parent / "mlflow.db").write_bytes(b"no database, " * 100)
    app = open_page(page)
    assert not app.exception
    warnings = "\n".join(w.value for w in app.warning).replace("\\", "")
    assert "run.json can't be read" in warnings and "MLflow's database" in warnings
    if page in ("curves", "thinking"):
        assert "1 line of metrics.jsonl" in warnings
    if page == "samples":
        assert "step_000010.parquet can't be read" in warnings


def test_live_run_is_read_on(runs: Path) -> None:
    folder = write_run(runs / "zero", status="RUNNING")
    app = open_page("runs")
    assert app.dataframe[0].value["steps"][0] == 40
    assert "running" in app.dataframe[0].value["status"][0]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(50))
    app.run()
    assert app.dataframe[0].value["steps"][0] == 50
