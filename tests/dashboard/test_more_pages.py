"""The pages Samples (all views), Aha, Model, Claims, Lineage and Plan in Streamlit's own test client."""

import json
from pathlib import Path

import pytest

from dashboard import family, results
from tests.dashboard.made import BEACON, HOSTILE, write_run
from tests.dashboard.made_more import add_config, add_evaluations, add_experts, add_lineage
from tests.dashboard.test_pages import charts, html_of, open_page, shown


@pytest.fixture
def zero(runs: Path) -> Path:
    """A run with all that the pages read."""
    folder = write_run(runs / "zero")
    add_evaluations(folder)
    add_experts(folder)
    add_config(folder)
    add_lineage(folder)
    return folder


def harmless(app) -> None:
    """Nothing that a model or a stranger wrote is a tag, or stands where markdown is read."""
    html = html_of(app)
    assert "<script" not in html and "<img" not in html and "\x1b" not in html and "\u202e" not in html
    places = [*app.markdown, *app.caption, *app.info, *app.warning, *app.title, *app.subheader]
    assert not any(BEACON in str(block.value) for block in places)
    assert not app.exception


def test_samples_by_expression_mixed_language_and_hostile_pattern(zero: Path) -> None:
    app = open_page("samples", of="held-out", step="40")
    app.text_input(key="contains").set_value(r"check \(3\+5\)\*8=\d+ yes")
    app.toggle(key="regex").set_value(True).run()
    assert "5 of 8 answers fit" in shown(app)
    assert '<mark class="r1-found">check (3+5)*8=64 yes</mark>' in html_of(app)
    app.text_input(key="contains").set_value("(a+)+$").run()
    assert "0 of 8 answers fit" in shown(app) or "answers fit" in shown(app)
    app.text_input(key="contains").set_value("(?<=x)y").run()
    assert "No regular expression" in shown(app).replace("\\", "")
    app.text_input(key="contains").set_value("")
    app.toggle(key="mixed").set_value(True).run()
    assert "2 of 8 answers fit" in shown(app)  # one thinks in two languages, and so does the hostile one
    harmless(app)


def test_samples_says_zero_variance_in_words_and_colours_tokens(zero: Path) -> None:
    app = open_page("samples", of="held-out", step="40", question="countdown/test/1")
    assert "r1-flat" in html_of(app) and "Zero variance" in html_of(app)
    assert list(app.dataframe[0].value["variance of rewards"]) == ["some", "zero: teaches nothing"]
    assert 'title="4.2">ab↵\n</span>' in html_of(app) and "&lt;b&gt;" in html_of(app)
    app.button_group(key="colour").set_value("difference").run()
    assert 'title="0.5">ab↵\n</span>' in html_of(app)
    app.selectbox(key="answer").set_value("2").run()
    assert "Not recorded for this answer" in shown(app) and 'title="not recorded"' in html_of(app)
    harmless(app)


def test_a_link_opens_the_same_answer(zero: Path) -> None:
    app = open_page("samples", of="held-out", step="40", question="countdown/test/0")
    link = "?run=zero&amp;of=held-out&amp;step=40&amp;question=countdown%2Ftest%2F0&amp;answer=1"
    assert f'href="{link}"' in html_of(app)
    linked = open_page("samples", run="zero", of="held-out", step="40", question="countdown/test/0", answer="1")
    assert linked.selectbox(key="answer").value == "1"
    wrong = open_page("samples", run="zero", step="../../x", question="/etc/passwd", answer="<b>", view="nonsense")
    assert wrong.select_slider[0].value == 40
    assert "root:" not in html_of(wrong)
    harmless(wrong)


def test_one_question_is_followed_and_two_steps_are_compared(zero: Path) -> None:
    app = open_page("samples", of="held-out", view="one question", question="countdown/test/0")
    assert "Asked at 2 of 2 steps" in shown(app) and charts(app) == 2
    assert "<span>step 0</span>" in html_of(app) and "<span>step 40</span>" in html_of(app)
    app.selectbox(key="place").set_value("2").run()
    assert "&lt;script&gt;" in html_of(app)
    harmless(app)
    both = open_page("samples", of="held-out", view="two steps", question="countdown/test/0")
    assert "<del>" in html_of(both) and "<ins>" in html_of(both) and "wrong → right" in html_of(both)
    harmless(both)


def test_aha_counts_every_answer_against_the_start(zero: Path) -> None:
    app = open_page("aha")
    table = app.dataframe[0].value.set_index("rule")
    assert table.loc["reflects", "start (step 0)"].endswith("1 of 8")
    assert table.loc["changed", "step 40"].endswith("1 of 8")
    assert table.loc["turned", "of these ended right"] == "100.0%"
    assert charts(app) == 3 and "the base model" in shown(app)
    assert "1 of 1 answers that meet it, drawn by chance with seed 0" in shown(app)
    assert '<mark class="r1-before">3*5+8=23</mark>' in html_of(app)
    app.button_group(key="rule").set_value("reflects").run()
    assert "6 of " in shown(app)
    harmless(app)


def test_aha_without_answers_of_the_start_says_so(runs: Path) -> None:
    write_run(runs / "zero")
    app = open_page("aha")
    assert "Answers of step 0 are not here" in shown(app)
    assert app.dataframe[0].value["start (step 0)"].eq("-").all()
    harmless(app)


def test_model_shows_experts_cache_and_fp8(zero: Path) -> None:
    app = open_page("model")
    warnings = "\n".join(w.value for w in app.warning).replace("\\", "")
    assert "1 lines of experts.jsonl can't be read" in warnings
    assert app.selectbox(key="layer").options == ["layer 2", "MTP module 4"]
    assert "the busiest expert has 1.30 times the even share" in shown(app)
    specs = " ".join(chart.proto.spec for chart in app.get("vega_lite_chart"))
    for title in ("Uneven load by layer", "Drift of the router", "KV cache of DeepSeek-V3", "Loss in FP8"):
        assert title in specs
    harmless(app)


def test_model_of_a_run_that_kept_nothing(runs: Path) -> None:
    write_run(runs / "bare", samples=())
    app = open_page("model")
    assert "kept no load of its experts" in shown(app) and "No acceptance was logged" in shown(app)
    harmless(app)


def test_claims(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "make claims" in shown(open_page("claims"))
    claims = [
        {"id": "a", "title": "Length grows", "source": "R1 fig. 3", "paper": "up", "quantity": "ratio", "seeds": [0, 1]}
        | {"ours": {"mean": 2.0, "low": 1.5, "high": 2.5}, "verdict": "reproduced", "command": "r1 claims run=a"},
        {"id": "b", "title": f"![x]({BEACON})", "ours": {"mean": None}, "verdict": "inconclusive", "cost_s": None},
    ]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "table.json").write_text(json.dumps(claims))
    app = open_page("claims", claim="a")
    table = app.dataframe[0].value.set_index("id")
    assert table.loc["a", "ours"] == "2 [1.5, 2.5]" and table.loc["b", ["ours", "paper", "minutes"]].isna().all()
    assert app.code[0].value == "r1 claims run=a"
    app.selectbox(key="claim").set_value("b").run()
    harmless(app)
    (tmp_path / "claims" / "table.json").write_text("[{")
    assert "can't be read" in shown(open_page("claims")).replace("\\", "")


def test_lineage_is_drawn_and_leads_to_the_run(zero: Path, runs: Path) -> None:
    add_lineage(write_run(runs / "later", samples=()), "reasoning")
    (runs / "later" / "lineage.json").write_text((runs / "later" / "lineage.json").read_text()[:-20])
    app = open_page("lineage", run="zero")
    assert "can't be read" in shown(app).replace("\\", "")
    drawn = app.get("graphviz_chart")[0].proto.spec
    assert "n0 -> n1" in drawn and "experiments/base" in drawn and BEACON not in drawn
    assert drawn.count("URL=") == 1 and 'URL="./?run=zero", target="_self"' in drawn  # the base is no run of this store
    assert list(app.dataframe[0].value["id"]) == ["963e7cd5b1bd", "idzero"]
    harmless(app)


def test_a_run_with_a_hostile_name_makes_no_other_link() -> None:
    name = 'a", URL="javascript:alert(1)'
    drawn = family.dot({"x": family.Model("x", "zero", "p", run=name)})
    assert drawn.count('URL="') == 1 and "javascript:" not in drawn.split("label=")[0]
    assert 'URL="./?run=a%22%2C%20URL%3D%22javascript%3Aalert%281%29"' in drawn


def test_plan_works_out_what_the_command_does_and_refuses_in_words(runs: Path) -> None:
    app = open_page("plan", cluster="h800x2048")
    assert [m.value for m in app.metric][:1] and not app.exception
    assert "2048 H800" in app.code[0].value and charts(app) == 2
    app.number_input(key="pipeline/h800x2048").set_value(7).run()
    assert not app.exception
    assert "parallel" in shown(app)


@pytest.mark.parametrize("page", ["aha", "model", "lineage"])
def test_empty_store_says_which_command_makes_data(runs: Path, page: str) -> None:
    app = open_page(page)
    assert not app.exception and "make quick" in shown(app)


def test_a_broken_file_of_answers_is_said_on_every_page_that_reads_it(zero: Path) -> None:
    (zero / "evaluations" / "step_000040.parquet").write_bytes(b"PAR1 cut short")
    for page, params in (("aha", {}), ("samples", {"of": "held-out", "view": "two steps"})):
        app = open_page(page, **params)
        assert not app.exception
        assert "step_000040.parquet can't be read" in shown(app).replace("\\", "")


def test_the_hostile_text_is_one() -> None:
    assert "<script>" in HOSTILE and "\x1b" in HOSTILE and "\u202e" in HOSTILE
