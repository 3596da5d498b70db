"""reasoning-gym's families: gold answers by independent arithmetic, our scorer, and questions on one side only.

Importing reasoning_gym takes some seconds; all of it is in the first test's set-up.
"""

import dataclasses
import math
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.tasks.base import Template
from rl.tasks.gym import FAMILIES, GymTask, in_test_split
from rl.types import Question
from tests.arithmetic import value_of

COUNT = 200
FAMILY = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def no_scorer_of_reasoning_gym():
    """Several run the answer as Python: here, whoever calls one fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

    def refuse(self, answer, entry):
        raise AssertionError("reasoning-gym's score_answer was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reasoning_gym.dataset.ProceduralDataset, "score_answer", refuse)
        for dataset, _ in DATASETS.values():
            if "score_answer" in vars(dataset):
                patch.setattr(dataset, "score_answer", refuse)
        patch.setattr(reasoning_gym, "get_score_answer_fn", refuse)
        yield


@pytest.fixture(scope="module")
def tasks(no_scorer_of_reasoning_gym) -> dict[str, GymTask]:
    return {name: GymTask(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def train(tasks) -> dict[str, list[Question]]:
    return {name: [task.train_question(i) for i in range(COUNT)] for name, task in tasks.items()}


@pytest.fixture(scope="module")
def held(tasks) -> dict[str, list[Question]]:
    return {name: task.test_questions(COUNT) for name, task in tasks.items()}


def asked(question: Question) -> str:
    """The question alone."""
    return question.prompt.removeprefix("User: ").removesuffix("\nAssistant:")


def answers(text: str) -> str:
    return f"<think>so</think><answer>{text}</answer>"


def right(name: str, text: str, answer: str) -> bool:
    """Whether the answer to a question is right, from its text alone."""
    if name == "spell_backward":
        return answer == re.fullmatch(r"Spell (\S+) backward\.", text)[1][::-1]
    if name == "gcd":
        return int(answer) == math.gcd(*map(int, re.fullmatch(r"gcd\(([\d, ]+)\) = \?", text)[1].split(", ")))
    if name == "simple_equations":
        equation, variable = re.fullmatch(r"(.+), ([a-z]) = \?", text).groups()
        left, right_side = (unsigned(side.replace(variable, f"({answer})")) for side in equation.split("="))
        return value_of(left) == value_of(right_side)
    return value_of(unsigned(re.fullmatch(r"(.+) = \?", text)[1])) == int(answer)


def unsigned(expression: str) -> str:
    """-3 as (0-1)*3: the evaluator knows no signs."""
    return re.sub(r"(^|[-+*/(] ?)-(?=[0-9(])", r"\1(0-1)*", expression.strip())


@FAMILY
def test_gold_answers_are_right_by_independent_arithmetic(name, train, held):
    for question in train[name] + held[name]:
        assert right(name, asked(question), question.answer), question


@FAMILY
def test_scorer_accepts_gold_answers_and_rejects_others(name, tasks, train, held):
    task = tasks[name]
    questions = held[name] + train[name]
    for question, other in zip(questions, questions[1:], strict=False):
        assert task.score(question, answers(question.answer)) == 1.0
        assert task.score(question, answers(f"\n {question.answer} ")) == 1.0
        assert task.score(question, answers(other.answer)) == float(other.answer == question.answer)
        wrong = [f"{question.answer}1", f"x{question.answer}", f"{question.answer} or so", "", "None", "1+1"]
        wrong += [f"={question.answer}", f"{question.answer}\n{question.answer}"]
        assert not any(task.score(question, answers(text)) for text in wrong)
        assert task.score(question, question.answer) == 0.0  # no tags
        assert task.score(question, f"<answer>{question.answer}") == 0.0


@FAMILY
def test_training_and_test_questions_are_disjoint(name, train, held):
    assert not {asked(q) for q in train[name]} & {asked(q) for q in held[name]}
    assert all(in_test_split(asked(q)) for q in held[name])
    assert not any(in_test_split(asked(q)) for q in train[name])


def test_no_family_trains_on_another_familys_test_questions(train, held):
    """`3 * 5 = ?` may come from products or from basic_arithmetic; spaces and order do not make it another."""

    def keys(questions: dict[str, list[Question]]) -> set[str]:
        return {" ".join(sorted(re.findall(r"\w+|\S", asked(q)))) for part in questions.values() for q in part}

    assert len(keys(train)) > 900 and len(keys(held)) > 900
    assert not keys(train) & keys(held)


@FAMILY
def test_test_questions_are_different_and_the_same_for_every_seed(name, held):
    assert len({asked(q) for q in held[name]}) == len({q.id for q in held[name]}) == COUNT
    assert GymTask(name, seed=8).test_questions(20) == held[name][:20]


@FAMILY
def test_training_question_depends_on_seed_and_number_only(name, train):
    assert [GymTask(name).train_question(i) for i in (7, 3)] == [train[name][7], train[name][3]]
    other = [GymTask(name, seed=1).train_question(i) for i in range(40)]
    # reasoning-gym's item i of seed s is item 0 of seed s + i: seeds have to lie far apart.
    assert [asked(q) for q in other] != [asked(q) for q in train[name][:40]]
    shared = {asked(q) for q in other} & {asked(q) for q in train[name]}
    assert len(shared) <= 20
    assert all(not in_test_split(asked(q)) for q in other)


def test_split_holds_out_a_tenth_whatever_the_order_of_the_terms(tasks):
    texts = [f"{a} + {b} = ?" for a in range(100) for b in range(a, 100)]
    share = sum(map(in_test_split, texts)) / len(texts)
    assert abs(share - 26 / 256) < 0.02
    for a, b in ((3, 5), (17, 99), (4, 4), (80, 2)):
        assert in_test_split(f"{a} + {b} = ?") is in_test_split(f"{b}+{a}=?")
    assert in_test_split("gcd(4, 6) = ?") is in_test_split("gcd(6, 4) = ?")


@pytest.mark.parametrize(
    "text, accepted",
    [("12", 1.0), ("+12", 1.0), ("012", 1.0), ("-12", 0.0), ("12.0", 0.0), ("1_2", 0.0), ("１２", 0.0), ("١٢", 0.0)]
    + [("6+6", 0.0), ("1 2", 0.0), ("12\0", 0.0), ("12" * 500_000, 0.0), ("0" * 11 + "12", 0.0), ("--12", 0.0)],
    ids=range(14),
)
def test_whole_numbers_are_compared_as_numbers_and_nothing_else_is_one(tasks, text, accepted):
    assert tasks["chain_sum"].score(Question("q", "chain_sum", "", "12"), answers(text)) == accepted


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_answer_raises(tasks, text):
    for name in ("chain_sum", "spell_backward"):
        assert tasks[name].score(Question("q", name, "", "12"), answers(text)) in (0.0, 1.0)


def test_more_test_questions_than_a_family_has_is_an_error():
    task = GymTask("products")
    task.family = dataclasses.replace(task.family, text=lambda meta: f"{meta['source_index'] % 200} * 1 = ?")
    there = sum(in_test_split(f"{k} * 1 = ?") for k in range(200))
    with pytest.raises(ConfigError, match=f"evaluate.questions={there + 1}.*products has {there} held-out"):
        task.test_questions(there + 1)


def test_template_is_the_tasks():
    question = GymTask("gcd", template=Template.r1_zero).test_questions(1)[0]
    assert question.prompt.startswith("A conversation between User and Assistant.") and "User: gcd(" in question.prompt
