"""Made test data: from a model that now and then breaks its JSON to a reviewed sheet and what is exported."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import datagen, samples, sheet
from agents.config import BudgetConfig, DatagenConfig, Export
from infra.errors import ConfigError, R1Error
from tests.agents.scripted import Scripted, refuses

FORM = samples.schema(["yes", "no"], 100)
WORDS = "apple brick cloud dance eagle flame grape house igloo jolly knife lemon mango north ocean piano queen".split()


def items(*numbers: int, label: str = "yes") -> str:
    made = [{"query": f"{WORDS[i % 17] * 2} {WORDS[(i * 7 + 3) % 17]} {i}", "label": label} for i in numbers]
    return f"Here they are:\n```json\n{json.dumps(made)}\n```"


def cfg(server: Scripted, **given_: object) -> DatagenConfig:
    given_ = {"task": "is it a fruit?", "n": 6, "per_call": 3, "endpoint": server.cfg()} | given_
    return DatagenConfig(**given_)


def test_four_steps_make_a_sheet(tmp_path):
    with Scripted(
        ["draft of instructions", "better instructions", items(0, 1, 2), items(3, 4, 5, label="no")]
    ) as server:
        assert datagen.run(cfg(server), tmp_path) == 0
        first, second, third, fourth = server.prompts()
        assert "is it a fruit?" in first and "draft of instructions" in second and "better instructions" in third
        assert '"additionalProperties": false' in third and "no, no, no" in fourth or "no, yes, no" in fourth
        assert "appleapple" not in third and "appleapple" in fourth
    made = sheet.read(tmp_path / "review.csv")
    assert [(s.id, s.label, s.decision) for s in made][::5] == [("s0001", "yes", ""), ("s0006", "no", "")]


BROKEN = '[{"query": "x", "label": "perhaps"}, {"query": 5, "label": "no"}, {"query": " ", "label": "no"}, "text", '
BROKEN += '{"query": "kept anyway", "label": "no"}, {"query": "more", "label": "no", "extra": 1}]'


def test_broken_json_is_asked_for_again_and_counted(tmp_path, capsys):
    script = ["i", "r", '[{"query": "half', BROKEN, items(1, 2), items(3), items(4, 5, 6)]
    with Scripted(script) as server:
        assert datagen.run(cfg(server, n=4), tmp_path) == 0
        said = server.prompts()
        assert "there is no JSON list" in said[3] and '[{"query": "half' in said[3]
        assert "label: breaks enum" in said[4] and "query: breaks type" in said[4]
    kept = json.loads((tmp_path / "datagen.json").read_text())
    assert kept["counts"] == {"replies": 4, "invalid": 2, "repaired": 1, "given_up": 0, "duplicates": 0}
    assert [s["query"] for s in kept["samples"]][0] == "kept anyway" and len(kept["samples"]) == 4
    assert "4 replies, 2 invalid, 1 repaired" in capsys.readouterr().err


def test_a_model_that_never_mends_it_is_reported_after_a_bounded_number_of_calls(tmp_path):
    with Scripted(["i", "r", "no JSON \x1b[2J"]) as server:
        with refuses("no sample of 6 .*12 replies, 12 invalid, 0 repaired, 4 given up") as raised:
            datagen.run(cfg(server, repairs=2, rounds=4), tmp_path)
        assert len(server.bodies) == 2 + 4 * 3 and "\x1b" not in str(raised.value)
        assert all("\x1b" not in prompt for prompt in server.prompts())


def test_it_goes_on_where_it_was_and_keeps_decisions(tmp_path):
    with Scripted(["i", "r", items(0, 1, 2), (500, "down")]) as server, refuses("does not answer"):
        datagen.run(cfg(server), tmp_path)
    with Scripted([items(3)]) as server:  # the same one for ever: all but the first are duplicates
        assert datagen.run(cfg(server, rounds=2), tmp_path) == 1
        assert len(server.bodies) == 2 and "r\n</data>" in server.prompts()[0]
    path = tmp_path / "review.csv"
    rows = list(csv.reader(path.open()))
    rows[1][3] = "accept"
    csv.writer(path.open("w")).writerows(rows)
    with Scripted([items(4, 5)]) as server:
        assert datagen.run(cfg(server), tmp_path) == 0
        assert datagen.run(cfg(server), tmp_path) == 0 and len(server.bodies) == 1
        with refuses("another task"):
            datagen.run(cfg(server, task="other"), tmp_path)
    assert [s.decision for s in sheet.read(path)] == ["accept", "", "", "", "", ""]


def test_a_budget_ends_it_and_says_so(tmp_path, capsys):
    with Scripted(["i", "r", items(0)]) as server:
        assert datagen.run(cfg(server, budget=BudgetConfig(calls=3)), tmp_path) == 1
    assert "limit of 3 calls" in capsys.readouterr().err and (tmp_path / "review.csv").exists()


def test_the_same_in_other_words_is_no_new_sample():
    seen = samples.Seen(0.8)
    assert seen.add("Is the Café open today?")
    assert not seen.add("  is the CAFE\u0301, open today!! ")
    assert not seen.add("Is the Café open todays?")
    assert seen.add("Is the museum closed tomorrow?")
    assert seen.add("!!") and not seen.add("!!") and seen.add("??")


@settings(max_examples=30)
@given(st.text())
def test_any_reply_is_read_or_said_to_be_wrong(reply):
    found, problems = samples.read(reply, FORM)
    assert problems or found


def test_samples_are_cleaned_of_codes():
    found, problems = samples.read('[{"query": "\\u001b[31mred\\u202e \\ud800 ", "label": "no"}]', FORM)
    assert found == [{"query": "[31mred", "label": "no"}] and not problems


# A spreadsheet takes these for formulas (OWASP, CSV injection).
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "\n=", "'=", "\uff1d"])
def test_no_cell_is_a_formula(tmp_path, start):
    query = f"{start}HYPERLINK(1)"
    path = tmp_path / "review.csv"
    sheet.write(path, [sheet.Sample("s0001", query, start)])
    with path.open(newline="") as file:
        cells = list(csv.reader(file))[1]
    assert all(cell[0] not in "=+-@\t\r\uff1d" for cell in cells if cell)
    assert sheet.read(path)[0].query == query


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=5))
def test_a_sheet_is_read_as_it_was_written(tmp_path_factory, queries):
    path = tmp_path_factory.mktemp("sheet") / "review.csv"
    sheet.write(path, [sheet.Sample(f"s{i}", query, "a,\"b'") for i, query in enumerate(queries)])
    assert [s.query for s in sheet.read(path)] == queries


def test_what_is_accepted_is_exported(tmp_path):
    path = tmp_path / "review.csv"
    made = [("s1", "=1+1\nline", "accept"), ("s2", "two", "Accept "), ("s3", "three", ""), ("s4", "four", "accept")]
    sheet.write(path, [sheet.Sample(i, query, "no", decision) for i, query, decision in made])
    sheet.decide(path, "s3", "accept")
    sheet.decide(path, "s4", "reject")
    assert datagen.run(DatagenConfig(review=str(path)), tmp_path) == 0
    lines = [json.loads(line) for line in (tmp_path / "review.tests.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["=1+1\nline", "two", "three"]
    out, count = sheet.export(path, Export.few_shot)
    assert count == 3 and out.read_text().startswith("Query: =1+1 line\nLabel: no\n\nQuery: two\nLabel: no\n")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,query\n1,2\n", "has not the columns"),
        ("id,query,label,decision\ns1,q,no,perhaps\n", "row 2: a decision is accept or reject"),
        ("id,query,label,decision\ns1,q\n", "row 2"),
        ("id,query,label,decision\ns1,q,no,\n", "no sample is accepted"),
        ("", "no sample is accepted"),
        (None, "cannot be read"),
    ],
)
def test_a_sheet_that_cannot_be_used_is_named(tmp_path, text, match):
    path: Path = tmp_path / "review.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(R1Error, match=match):
        sheet.export(path, Export.tests)


def test_the_command_line_takes_a_task_with_any_signs_in_it(tmp_path):
    """task is a group of settings elsewhere, and = , { } are signs of Hydra's grammar."""

    def r1(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "infra.cli", "datagen", *args]
        env = os.environ | {"PYTHONPATH": str(Path(datagen.__file__).parents[1])}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    with Scripted(["i", "r", items(0, 1)]) as server:
        done = r1("task=is {it} = a, joke? ${x}", "labels=[yes,no]", f"url={server.url}", "n=2", "near=0.9")
        assert done.returncode == 0, done.stderr
        assert "Task: is {it} = a, joke? ${x}" in server.prompts()[0]
    sheet.decide(tmp_path / "runs/datagen/review.csv", "s0002", "accept")
    assert r1("review=runs/datagen/review.csv", "export=few_shot").returncode == 0
    assert (tmp_path / "runs/datagen/review.few_shot.txt").read_text().startswith("Query: brick")


def test_settings_that_cannot_work_are_refused():
    for bad in ({"labels": ["yes"]}, {"labels": ["a", "a", "b"]}, {"n": 0}, {"near": 0.0}):
        with pytest.raises(ConfigError):
            DatagenConfig(**bad)
    with pytest.raises(ConfigError, match="task="):
        DatagenConfig().check()
