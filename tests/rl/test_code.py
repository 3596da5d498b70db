"""Code tasks: questions by independent evaluation, programs found in answers, scores by tests, bad rows named."""

import ast
import base64
import json
import pickle
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError, SandboxError
from rl.rewards.base import RewardConfig, score, score_groups
from rl.sandbox import runner
from rl.tasks.base import TaskConfig, Template
from rl.tasks.code import HIDDEN, KINDS, Code, held_out
from rl.tasks.code_config import CodeConfig
from rl.tasks.make_cases import make_cases
from rl.tasks.mix import Mix, build_task
from rl.tasks.problem_rows import parse_problem
from rl.tasks.problems import Problems
from rl.tasks.programs import as_function, program_of
from rl.types import Completion, Group, Question
from tests.sandbox import LIMITS
from training.data.rows import BadRow

CFG = CodeConfig(sandbox=LIMITS)


def answer(text: str) -> str:
    return f"<think>so</think><answer>{text}</answer>"


@pytest.fixture(scope="module")
def train() -> list[Question]:
    task = Code(CFG)
    return [task.train_question(i) for i in range(300)]


@pytest.fixture(scope="module")
def held() -> list[Question]:
    return Code(CFG).test_questions(128)


def evaluated(expression: str, x: object) -> object:
    """The expression's value by Python itself: it is ours, from the generator, and holds names of this list only."""
    names = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
    assert names <= {"x", "n", "max", "sum"}
    return eval(expression, {"x": x, "max": max, "sum": sum})


def test_given_solutions_have_the_expected_values(train, held):
    for question in train + held:
        assert len(question.meta["cases"]) == HIDDEN
        for case in question.meta["cases"]:
            (x,) = case["arguments"]
            assert evaluated(question.answer, x) == case["expected"]


def test_given_solutions_score_and_others_do_not(sandbox, held):
    task = Code(CFG)
    answers = [(q, answer(q.answer)) for q in held] + [
        (q, answer(other.answer)) for q, other in zip(held, held[1:], strict=False)
    ]
    task.prepare(answers)
    scores = [task.score(question, text) for question, text in answers]
    assert scores[: len(held)] == [1.0] * len(held)
    same = [q.meta["cases"] for q in held]
    assert all(s == 0.0 for s, a, b in zip(scores[len(held) :], same, same[1:], strict=False) if a != b)


def test_hidden_cases_tell_a_function_from_its_neighbours(train):
    """Each constant one up or down is another function, but for those that are the same by their meaning."""
    missed = 0
    for question in train:
        number = re.search(r"-?\d+", question.answer)
        for step in (-1, 1):
            near = f"{question.answer[: number.start()]}{int(number[0]) + step}{question.answer[number.end() :]}"
            missed += all(evaluated(near, *case["arguments"]) == case["expected"] for case in question.meta["cases"])
    assert missed <= 3


def test_a_function_is_on_one_side_whether_in_words_or_by_examples(train, held):
    def constants(questions):
        return {q.answer for q in questions}

    assert not constants(train) & constants(held)
    assert any("Write f(x)." in q.prompt for q in held) and any("Write f(x):" in q.prompt for q in held)
    assert held_out(KINDS["linear"], (3, 1)) is held_out(KINDS["linear"], (3, 1))
    share = sum(held_out(KINDS["linear"], (a, b)) for a in range(2, 21) for b in range(-20, 21)) / (19 * 41)
    assert 0.06 < share < 0.15


def test_test_questions_are_different_and_the_same_for_every_seed(held):
    assert len({q.prompt for q in held}) == len({q.id for q in held}) == 128
    assert Code(CFG, seed=9).test_questions(20) == held[:20]
    assert [Code(CFG).train_question(i) for i in (5, 2)] == [Code(CFG).train_question(i) for i in (2, 5)][::-1]
    assert Code(CFG, seed=1).train_question(0) != Code(CFG).train_question(0)


def test_questions_are_short_enough_for_the_tiny_prompt(train):
    lengths = [len(q.prompt.removeprefix("User: ").removesuffix("\nAssistant:")) for q in train]
    assert max(lengths) <= 64
    assert len(Code(CFG, template=Template.chat).train_question(1).prompt) < 400


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (answer(" 3 * x "), "3 * x"),
        (answer("```python\nprint(1)\n```"), "print(1)\n"),
        (answer("first\n```\na\n```\nthen\n```py\nb\n```"), "b\n"),
        ("no answer", None),
        (answer("  "), None),
        (answer("x" * 60_000), None),
        ("<answer>a", None),
    ],
)
def test_program_of_an_answer(text, program):
    assert program_of(text) == program


@given(st.text(max_size=200))
def test_no_answer_makes_the_parser_raise(text):
    for each in (text, answer(text), answer(f"```{text}```")):
        program = program_of(each)
        assert program is None or program.strip()
        assert isinstance(as_function(each, "f", "x"), str)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2 * x + 1", (1.0, 1.0, 1.0)),
        ("def f(x):\n    return x + x + 1", (1.0, 1.0, 1.0)),
        ("f = lambda x: 1 + 2 * x", (1.0, 1.0, 1.0)),
        ("```python\ndef f(y): return 2 * y + 1\n```", (1.0, 1.0, 1.0)),
        ("2 * x + 1 if x > 0 else 0", (1.0, 0.5, 0.0)),
        ("2 * x", (1.0, 0.0, 0.0)),
        ("2 * y", (1.0, 0.0, 0.0)),
        ("2 * x +", (0.0, 0.0, 0.0)),
        ("the double, plus 1", (0.0, 0.0, 0.0)),
        ("__import__('os').system('true')", (1.0, 0.0, 0.0)),
        ("9 ** 9 ** 9 ** 9", (1.0, 0.0, 0.0)),
        ("x) or (1", (1.0, 0.0, 0.0)),
    ],
)
def test_reward_keeps_compiled_share_and_all(sandbox, text, parts):
    cases = [{"arguments": [x], "expected": 2 * x + 1} for x in (1, 2, -4, -9)]
    question = Question("q", "code", "", "", {"function": "f", "parameter": "x", "cases": cases})
    reward, breakdown = score(answer(text), question, Code(CFG), RewardConfig(tests=0.2))
    assert (breakdown["compiled"], breakdown["tests"], breakdown["all_tests"]) == parts
    assert breakdown["accuracy"] == parts[2]
    assert reward == pytest.approx(parts[2] + 0.1 + 0.2 * parts[1])


def test_an_answer_without_a_program_earns_its_format_at_most():
    question = Code(CFG).train_question(0)
    assert score("I do not know", question, Code(CFG), RewardConfig())[1] == {
        "accuracy": 0.0,
        "format": 0.0,
        "compiled": 0.0,
        "tests": 0.0,
        "all_tests": 0.0,
    }


def test_groups_are_tried_at_once_and_in_a_mix(sandbox, monkeypatch):
    mix = Mix([Code(CFG), build_task(TaskConfig())], [1.0, 1.0], seed=0)
    asked = [mix.train_question(i) for i in range(8)]
    groups = [
        Group(q, [Completion([], answer(text), [], [], True) for text in (q.answer, "no", q.answer)]) for q in asked
    ]
    calls = []
    real = runner.Sandbox.run_all
    monkeypatch.setattr(runner.Sandbox, "run_all", lambda self, p: calls.append(len(p)) or real(self, p))
    score_groups(groups, mix, RewardConfig())
    assert [[c.breakdown["accuracy"] for c in group.completions] for group in groups] == [[1.0, 0.0, 1.0]] * 8
    code = sum(q.task == "code" for q in asked)
    assert 0 < code < 8 and calls == [2 * code, 0]  # each different program once, no second wave


def test_without_bubblewrap_code_is_refused_before_any_work(monkeypatch):
    class Tokenizer:
        has_chat, is_own = False, True

    monkeypatch.setenv("PATH", "")
    cfg = TaskConfig(names=["code"], code=CodeConfig(sandbox=runner.SandboxConfig(wall_s=3.25)))
    assert isinstance(build_task(cfg), Code)  # the settings alone can be judged anywhere
    with pytest.raises(SandboxError, match="install bubblewrap"):
        build_task(cfg, Tokenizer())
    with pytest.raises(SandboxError, match="install bubblewrap"):
        build_task(cfg).score(build_task(cfg).train_question(0), answer("x"))


# Problems as LiveCodeBench has them


def pack(tests: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


STDIN = {
    "question_content": "Add two numbers.",
    "question_id": "add",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": pack([{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]),
    "metadata": "{}",
}
FUNCTIONAL = {
    "question_content": "Add two numbers.",
    "question_id": "add2",
    "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "5\n-6", "output": "-1", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "add"}),
}


def problems(path, **more) -> Problems:
    given = {"path": str(path), "bad_share": 0.0, "seed": 0, "template": Template.chat, "ready": False}
    return Problems("livecodebench", CFG, **(given | more))


def test_problems_are_read_and_scored(sandbox, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, (STDIN, FUNCTIONAL))))
    task = problems(path)
    by_function = {q.meta["function"]: q for q in task.test_questions(2)}
    script, method = by_function[""], by_function["add"]
    assert "standard input" in script.prompt and "def add(self" in method.prompt
    assert script.meta["cases"][1] == {"stdin": "5 6\n", "expected": "11\n"}
    assert method.meta["cases"] == [{"arguments": [1, 2], "expected": 3}, {"arguments": [5, -6], "expected": -1}]
    right = "```python\nclass Solution:\n    def add(self, a, b): return a + b\n```"
    assert task.score(method, answer(right)) == 1.0
    assert task.score(script, answer("print(sum(map(int, input().split())))")) == 1.0
    assert task.score_parts(script, answer("print(3)")) == (0.0, {"compiled": 1.0, "tests": 0.5, "all_tests": 0.0})
    first = Problems.submission(problems(path), script, answer("print(3)"))
    assert len(first.cases) == 2
    capped = Problems(
        "livecodebench",
        CodeConfig(max_tests=1, sandbox=LIMITS),
        path=str(path),
        bad_share=0.0,
        seed=0,
        template=Template.chat,
        ready=False,
    )
    assert capped.score(script, answer("print(3)")) == 1.0


class Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question_content": ""}, "no question"),
        ({"public_test_cases": "[]", "private_test_cases": ""}, "no tests"),
        ({"public_test_cases": "{"}, "public_test_cases that cannot be read"),
        ({"public_test_cases": '["x"]'}, "no list of tests"),
        ({"public_test_cases": '[{"input": "1", "testtype": "stdin"}]'}, "a test without output"),
        ({"public_test_cases": '[{"input": "1", "output": "1", "testtype": "x"}]'}, "tests of type stdin, x"),
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()}, "names .*open"),
        ({"private_test_cases": base64.b64encode(b"junk").decode()}, "cannot be read"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(change, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRow, match=says):
        parse_problem(STDIN | change)
    assert not any(tmp_path.iterdir())


def test_functional_rows_need_a_name_and_json():
    with pytest.raises(BadRow, match="no func_name"):
        parse_problem(FUNCTIONAL | {"metadata": "{}"})
    broken = json.dumps([{"input": "one", "output": "3", "testtype": "functional"}])
    with pytest.raises(BadRow, match="a test that is no JSON"):
        parse_problem(FUNCTIONAL | {"public_test_cases": broken})


def test_bad_rows_are_named_with_file_and_line(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join([json.dumps(STDIN), "{", json.dumps(STDIN), json.dumps(FUNCTIONAL)]))
    with pytest.raises(ConfigError, match=r"2 of 4 rows.*test.jsonl:2: is no JSON.*test.jsonl:3: has the id"):
        problems(path).test_questions(1)
    assert len(problems(path, bad_share=0.5).test_questions(2)) == 2


def test_problems_without_a_file_are_refused():
    with pytest.raises(ConfigError, match="task.names=livecodebench.*set task.path"):
        build_task(TaskConfig(names=["livecodebench"]))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="task.code.max_tests=-1"):
        CodeConfig(max_tests=-1)
    with pytest.raises(ConfigError, match="reward.tests=-1"):
        RewardConfig(tests=-1)


def test_problems_without_tests_get_them_by_quorum(sandbox, tmp_path):
    right, wrong = "print(int(input()) ** 2)", "print(int(input()) ** 2 + 1)"
    problem = {"question_content": "Square it.", "generator": "n = int(input())\nprint(n % 4 - 1)", "metadata": ""}
    rows = [
        problem | {"question_id": "good", "solutions": [right] * 9 + [wrong]},
        problem | {"question_id": "unclear", "solutions": [right] * 5 + [wrong] * 5},
        problem | {"question_id": "few", "solutions": [right] * 3},
        {
            "question_id": "called",
            "question_content": "Add.",
            "metadata": {"func_name": "add"},
            "solutions": ["def add(a, b): return a + b"] * 10,
            "generator": "n = int(input())\nprint(n)\nprint(2 * n)",
        },
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "test.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    assert make_cases(sandbox, source, out) == (2, 2)
    written = out.read_text()
    assert make_cases(sandbox, source, out) == (2, 2) and out.read_text() == written  # nothing is done twice
    why = {row["question_id"]: row["why"] for row in map(json.loads, Path(f"{out}.dropped").read_text().splitlines())}
    assert why["few"].endswith("there are 3 solutions, not 10") and why["unclear"].startswith("0 of 4 inputs became")
    task = problems(out)
    by_function = {q.meta["function"]: q for q in task.test_questions(2)}
    squares = sorted((int(c["stdin"]), c["expected"].strip()) for c in by_function[""].meta["cases"])
    assert squares == [(-1, "1"), (0, "0"), (1, "1"), (2, "4")]
    assert {tuple(c["arguments"]): c["expected"] for c in by_function["add"].meta["cases"]}[(3, 6)] == 9
    assert task.score(by_function[""], answer(wrong)) == 0.0 and task.score(by_function[""], answer(right)) == 1.0
    with pytest.raises(ConfigError, match="in.jsonl:1: has no generator"):
        source.write_text(json.dumps(rows[0] | {"generator": ""}))
        make_cases(sandbox, source, out)
