"""Sets of questions: their published shapes as tiny files, where files are found, and rows that are no use."""

import json

import pytest

from infra.errors import ConfigError
from rl.tasks.base import TaskConfig, at_most
from rl.tasks.benchmarks import BENCHMARKS, BenchmarkTask, boxed, find_files
from rl.tasks.mix import GENERAL, REASONING, build_task, suite

GSM8K = {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4\nSo many.\n#### 1,004"}
SVAMP = {"ID": "chal-1", "Body": "There are 87 oranges and 290 bananas", "Question": "How many fruits?"}
SVAMP |= {"Answer": 377.0, "Equation": "( 87.0 + 290.0 )", "Type": "Addition", "idx": 0}
AIME = {"id": 60, "problem": "Find $p+q$.", "solution": r"It is \boxed{204}.", "answer": "204", "url": "u"}
AMC = {"id": 0, "problem": "How far?", "answer": 27.0, "url": "u", "question": "How far?"}
MATH = {"problem": "Factor.", "solution": r"So $\boxed{(x-1)(x+1)}$.", "answer": "(x-1)(x+1)", "unique_id": "test/1"}
GPQA = {"Question": "Which?", "Correct Answer": "red", "Incorrect Answer 1": "green", "Incorrect Answer 2": "blue"}
GPQA |= {"Incorrect Answer 3": "white", "Record ID": "rec1"}


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def many(row: dict, count: int, **fields) -> list[dict]:
    """Rows with ids and questions of their own."""
    key = next(k for k in ("problem", "question", "Question") if k in row)
    return [row | {k: f"{v}{i}" for k, v in fields.items()} | {key: f"{row[key]} ({i})"} for i in range(count)]


def score(task: BenchmarkTask, answer: str) -> float:
    return task.score(task.test_questions(1)[0], f"<think>so</think><answer>{answer}</answer>")


@pytest.mark.parametrize(
    "name, row, question, right, wrong",
    [
        (
            "gsm8k",
            GSM8K,
            "Two and two?",
            ["1004", "1,004", "$1004", "1004 dollars", "1004.0"],
            ["4", "2+1002", "x"],
        ),
        ("svamp", SVAMP, "There are 87 oranges and 290 bananas. How many fruits?", ["377"], ["87+290", "378"]),
        ("aime2024", AIME, "Find $p+q$.", ["204", "$204$", r"\boxed{204}"], ["203", "\\boxed{20}4"]),
        ("amc2023", AMC, "How far?", ["27", "27.0", "27 miles"], ["26", "270"]),
        ("math500", MATH, "Factor.", ["(x-1)(x+1)"], [""]),
    ],
)
def test_published_shapes(tmp_path, name, row, question, right, wrong):
    task = BenchmarkTask(name, path=str(write(tmp_path / "test.jsonl", row)))
    asked = task.test_questions(1)[0]
    assert asked.prompt == f"User: {question}\nAssistant:" and asked.task == name
    assert [score(task, text) for text in right] == [1.0] * len(right)
    assert [score(task, text) for text in wrong] == [0.0] * len(wrong)
    assert score(task, "9" * 2000) == 0.0 and task.score(asked, asked.answer) == 0.0


def test_gpqa_shuffles_its_choices_by_the_question(tmp_path):
    rows = many(GPQA, 40, **{"Record ID": "r"})
    task = BenchmarkTask("gpqa", path=str(write(tmp_path / "test.jsonl", *rows)))
    letters = set()
    for question in task.test_questions(40):
        letters.add(question.answer)
        assert f"\n{question.answer}) red\n" in question.prompt
        assert task.score(question, f"<answer>({question.answer.lower()})</answer>") == 1.0
        assert task.score(question, f"<answer>{question.answer} or B</answer>") == 0.0
        assert task.score(question, "<answer>E</answer>") == 0.0
    assert letters == set("ABCD")
    again = BenchmarkTask("gpqa", path=str(tmp_path / "test.jsonl"))
    assert again.test_questions(40) == task.test_questions(40)


def test_parquet_has_the_same_rows(tmp_path):
    import pandas as pd

    pd.DataFrame(many(AMC, 5)).assign(id=range(5)).to_parquet(tmp_path / "test.parquet")
    task = BenchmarkTask("amc2023", path=str(tmp_path / "test.parquet"))
    assert {q.answer for q in task.test_questions(5)} == {"27"}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match=r"task.path=.*bad.parquet: cannot be read"):
        BenchmarkTask("amc2023", path=str(tmp_path / "bad.parquet")).test_questions(1)


def test_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    import dataclasses

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "hub" / "test.jsonl", *many(GSM8K, 3))
    write(tmp_path / "hub" / "train.jsonl", *many(GSM8K, 6))
    here = dataclasses.replace(BENCHMARKS["gsm8k"], hub=(str(tmp_path / "hub"), None))
    monkeypatch.setitem(BENCHMARKS, "gsm8k", here)
    task = BenchmarkTask("gsm8k")
    assert len(task.test_questions(3)) == 3
    assert {task.train_question(i).prompt for i in range(3)} == {
        f"User: Two and two? ({i})\nAssistant:" for i in (3, 4, 5)
    }
    monkeypatch.setitem(BENCHMARKS, "gsm8k", dataclasses.replace(here, hub=(str(tmp_path / "nothing"), None)))
    with pytest.raises(ConfigError, match="task.path=: data set .*nothing cannot be read .*task.path=<"):
        BenchmarkTask("gsm8k").test_questions(1)


def test_training_leaves_out_what_stands_in_the_tests(tmp_path, capsys):
    rows = many(GSM8K, 30)
    write(tmp_path / "gsm8k" / "train.jsonl", *rows[:20], rows[25] | {"question": rows[25]["question"].upper()})
    write(tmp_path / "gsm8k" / "test.jsonl", *rows[18:])
    task = BenchmarkTask("gsm8k", path=str(tmp_path))
    held = {q.prompt for q in task.test_questions(12)}
    trained = {task.train_question(i).prompt for i in range(60)}
    assert len(trained) == 18 and not trained & held
    assert "3 training questions stand in the test part" in capsys.readouterr().err


def test_every_row_is_trained_on_once_before_any_comes_again(tmp_path):
    write(tmp_path / "train.jsonl", *many(GSM8K, 200))
    task = BenchmarkTask("gsm8k", path=str(tmp_path))
    held = at_most(task, 999)
    rest = 200 - len(held)
    assert 5 < len(held) < 40  # a tenth by hash, as there is no test part
    first, second = ([task.train_question(i).prompt for i in range(start, start + rest)] for start in (0, rest))
    assert len(set(first)) == rest and set(first) == set(second) and first != second
    assert not set(first) & {q.prompt for q in held}
    assert [BenchmarkTask("gsm8k", path=str(tmp_path)).train_question(i).prompt for i in (3, 1)] == [first[3], first[1]]


def test_a_set_of_tests_alone_cannot_be_trained_on(tmp_path):
    task = BenchmarkTask("aime2024", path=str(write(tmp_path / "aime24.jsonl", AIME)))
    with pytest.raises(ConfigError, match="task.names=aime2024: has tests only"):
        task.train_question(0)
    with pytest.raises(ConfigError, match="evaluate.questions=2: aime2024 has 1 held-out"):
        task.test_questions(2)
    assert len(at_most(task, 2)) == 1


def test_ones_own_mathematics_takes_the_answer_from_the_box(tmp_path):
    rows = [{"problem": f"p{i}", "solution": rf"we see \boxed{{\frac{{{i}}}{{2}}}}, done"} for i in range(60)]
    task = BenchmarkTask("math", path=str(write(tmp_path / "mine.jsonl", *rows)))
    question = task.train_question(0)
    number = question.prompt.removeprefix("User: p").removesuffix("\nAssistant:")
    assert question.answer == rf"\frac{{{number}}}{{2}}"
    assert task.score(question, f"<answer>{number}/2</answer>") == 1.0
    assert (
        boxed(r"\boxed{a{b}c} \boxed{x") == "" and boxed(r"\boxed{1} or \boxed{a{b}c}") == "a{b}c" and boxed("") == ""
    )
    with pytest.raises(ConfigError, match="task.names=math: has no home"):
        BenchmarkTask("math")


def test_bad_rows_are_named_counted_and_refused(tmp_path, capsys):
    good = many(SVAMP, 16, ID="chal-")
    bad = [
        "{not json",
        "[1, 2]",
        good[0] | {"ID": "chal-3"},
        good[0] | {"ID": "a", "Answer": ""},
        good[0] | {"ID": "b", "Question": None},
        good[0] | {"ID": "c", "Answer": None},
    ]
    path = write(tmp_path / "test.jsonl", *good[:8], *bad, "", *good[8:])
    with pytest.raises(ConfigError) as error:
        BenchmarkTask("svamp", path=str(path)).test_questions(1)
    said = str(error.value)
    for part in (
        f"task.path={path}: 6 of 22 rows",
        "test.jsonl:9: is no JSON",
        "test.jsonl:10: is no object",
        "3 more",
    ):
        assert part in said, said
    assert "test.jsonl:11: has the id of test.jsonl:4 (chal-3)" in said and said.endswith("set task.bad_rows=0.27")
    task = BenchmarkTask("svamp", path=str(path), bad_share=0.3)
    assert len(at_most(task, 99)) == 16
    assert "6 of 22 rows are left out: test.jsonl:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, row, why",
    [
        ("gsm8k", {"question": "a", "answer": "no mark"}, "has no answer behind ####"),
        ("gsm8k", {"question": "a", "answer": "####"}, "has no answer behind ####"),
        ("gsm8k", {"answer": "#### 1"}, "has no question"),
        ("aime2024", {"problem": "a", "answer": True}, "has no answer"),
        ("aime2024", {"problem": "a", "answer": ["1"]}, "has no answer"),
        ("gpqa", GPQA | {"Incorrect Answer 3": ""}, "has fewer than four choices"),
        ("gpqa", GPQA | {"Correct Answer": ""}, "has no answer"),
        ("aime2024", "[" * 100_000, "is no JSON"),
        ("aime2024", '{"problem": "\udc80"}', "is no JSON"),
    ],
)
def test_what_a_row_lacks_is_said(tmp_path, name, row, why):
    path = tmp_path / "test.jsonl"
    text = row if isinstance(row, str) else json.dumps(row)
    path.write_bytes(text.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ConfigError, match=f"1 of 1 rows cannot be used: test.jsonl:1: {why}"):
        BenchmarkTask(name, path=str(path)).test_questions(1)


def test_an_empty_file_has_no_rows(tmp_path):
    path = write(tmp_path / "test.jsonl")
    with pytest.raises(ConfigError, match="has no rows"):
        BenchmarkTask("gsm8k", path=str(path)).test_questions(1)


def test_where_files_are_looked_for(tmp_path):
    test = write(tmp_path / "aime24" / "test.jsonl", AIME)
    single = write(tmp_path / "amc2023.jsonl", AMC)
    assert find_files("aime2024", tmp_path) == (None, test) == find_files("aime2024", test)
    assert find_files("amc2023", tmp_path) == (None, single)
    with pytest.raises(ConfigError, match="holds no file of gsm8k; put it there as gsm8k/test.jsonl"):
        find_files("gsm8k", tmp_path)
    with pytest.raises(ConfigError, match="task.path=.*none: is not there"):
        build_task(TaskConfig(names=["gsm8k"], path=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="neither .jsonl nor .parquet"):
        BenchmarkTask("gsm8k", path=str(write(tmp_path / "x.csv", "a"))).test_questions(1)


def test_suites_have_the_benchmarks_that_are_there(tmp_path):
    write(tmp_path / "aime24" / "test.jsonl", AIME)
    cfg = TaskConfig(path=str(tmp_path), names=["gcd"], weights=[2.0], seed=3)
    assert suite(cfg, "reasoning").names == [*REASONING, "aime2024"]
    assert suite(cfg, "general").names == list(GENERAL)
    assert suite(cfg, "all").names == [*REASONING, "aime2024", *GENERAL] and suite(cfg, "all").seed == 3
    assert suite(TaskConfig(), "reasoning").names == list(REASONING)
