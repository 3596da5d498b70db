"""Order of the questions: rising difficulty, sampling by 1 - success rate, resumed exactly, never a test question."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.config import QuestionOrder, QuestionsConfig, RLConfig
from rl.curriculum import Curriculum, Pooled, Prioritised, build_questions, rising
from rl.questions import Questions
from rl.tasks.countdown import Countdown
from rl.tasks.gym import GymTask
from rl.tasks.mix import Mix
from rl.types import Completion, Group, Question


class Numbered:
    """Question i is as difficult as its number backwards."""

    name = "numbered"

    def train_question(self, i: int) -> Question:
        return Question(f"train/{i}", self.name, "", "", {"i": i})

    def difficulty(self, question: Question) -> float:
        return float(-question.meta["i"])


def numbers(questions: list[Question]) -> list[int]:
    return [int(q.id.rpartition("/")[2]) for q in questions]


def scored(question: Question, *right: float) -> Group:
    return Group(question, [Completion([1], "", [0.0], [], True, breakdown={"accuracy": r}) for r in right])


def test_questions_are_harder_with_more_and_with_larger_numbers():
    def of(*given: int) -> float:
        return Countdown().difficulty(Question("", "countdown", "", "", {"numbers": list(given), "target": 1}))

    assert of(3, 5, 7) == pytest.approx(3 + 5 / 6)
    gcd = GymTask("gcd")
    assert gcd.difficulty(Question("", "gcd", "gcd(4, 6) = ?", "")) < gcd.difficulty(
        Question("", "gcd", "gcd(40, 60) = ?", "")
    )
    assert of(1, 2, 3) < of(3, 5, 7) < of(100, 100, 100) < of(1, 1, 1, 1)


def test_a_curriculum_asks_the_same_questions_from_easy_to_hard():
    task = Countdown(seed=3)
    curriculum, plain = Curriculum(task, total=60), Questions(task)
    asked = [q for _ in range(6) for q in curriculum.next(10)]
    assert sorted(q.id for q in asked) == sorted(q.id for q in plain.next(60))
    difficulties = [task.difficulty(q) for q in asked]
    assert difficulties == sorted(difficulties) and difficulties[0] < difficulties[-1]
    assert numbers(curriculum.next(2)) == [60, 61]  # a run that is made longer
    assert numbers(Curriculum(Numbered(), total=5).next(5)) == [4, 3, 2, 1, 0]


def test_tasks_of_a_mix_rise_side_by_side():
    assert rising(["a"] * 4 + ["b"] * 2, [4, 3, 2, 1, 900, 800]) == [3, 5, 2, 1, 4, 0]
    mix = Mix([Countdown(), Numbered()], [1.0, 1.0], seed=0)
    asked = Curriculum(mix, total=80).next(80)
    for name in ("countdown", "numbered"):
        own = [mix.difficulty(q) for q in asked if q.task == name]
        assert own == sorted(own) and len(own) > 20
    assert {q.task for q in asked[:20]} == {q.task for q in asked[-20:]} == {"countdown", "numbered"}


def test_a_task_without_grades_has_no_curriculum():
    class Ungraded(Numbered):
        difficulty = None

    with pytest.raises(ConfigError, match="numbered does not grade"):
        Curriculum(Ungraded(), total=3)


def test_weights_are_one_minus_the_success_rate():
    pool = Prioritised(Numbered(), pool=4, seed=0)
    asked = {q.id: q for q in pool.next(4)}
    pool.update([scored(asked["train/0"], 1, 1, 1, 0), scored(asked["train/1"], 1, 1), scored(asked["train/2"], 0, 0)])
    assert pool.weights.tolist() == [0.25, 0.0, 1.0, 1.0]
    pool.update([scored(asked["train/0"], 0, 0, 0, 0), scored(asked["train/1"], 0, 0)])
    assert pool.weights.tolist() == [0.625, 0.5, 1.0, 1.0]


def test_questions_are_drawn_in_proportion_to_their_weights():
    pool = Prioritised(Numbered(), pool=3, seed=1)
    asked = {q.id: q for q in pool.next(3)}
    pool.update([scored(asked["train/0"], 1, 1, 1, 0), scored(asked["train/1"], 1, 0, 0, 0)])  # weights 1/4, 3/4, 1
    drawn = np.bincount([numbers(pool.next(1))[0] for _ in range(2000)], minlength=3) / 2000
    assert drawn == pytest.approx([0.125, 0.375, 0.5], abs=0.045)  # 4 standard errors


def test_a_uniform_draw_of_a_pool_does_not_heed_success():
    cfg = RLConfig(questions_per_step=2, questions=QuestionsConfig(order=QuestionOrder.uniform, pool=3))
    pool = build_questions(Numbered(), cfg, seed=1)
    assert type(pool) is Pooled
    asked = {q.id: q for q in pool.next(3)}
    pool.update([scored(asked["train/0"], 1, 1), scored(asked["train/1"], 0, 0)])
    draws = [numbers(pool.next(2)) for _ in range(2000)]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert np.bincount(np.ravel(draws), minlength=3) / 4000 == pytest.approx([1 / 3] * 3, abs=0.022)  # 3 errors


@given(st.lists(st.integers(0, 4), min_size=8, max_size=8), st.integers(1, 8))
def test_a_draw_never_repeats_a_question(right, count):
    pool = Prioritised(Numbered(), pool=8, seed=0)
    asked = sorted(pool.next(8), key=lambda q: q.meta["i"])
    pool.update([scored(q, *([1] * r + [0] * (4 - r))) for q, r in zip(asked, right, strict=True)])
    drawn = numbers(pool.next(count))
    assert len(set(drawn)) == count
    unsolved = {i for i, r in enumerate(right) if r < 4}
    assert len(unsolved & set(drawn)) == min(count, len(unsolved))  # solved ones only where nothing else is left


@pytest.mark.parametrize("order", QuestionOrder)
def test_a_resumed_run_asks_what_an_uninterrupted_one_does(order):
    cfg = RLConfig(steps=5, questions_per_step=4, questions=QuestionsConfig(order=order, pool=12))

    def go(questions: Questions, steps: int) -> list[list[str]]:
        asked = []
        for _ in range(steps):
            drawn = questions.next(4)
            asked.append([q.id for q in drawn])
            questions.update([scored(q, *(int(b) for b in f"{q.meta['i'] % 8:03b}")) for q in drawn])
        return asked

    whole = build_questions(Numbered(), cfg, seed=7)
    expected = go(whole, 5)
    first, second = (build_questions(Numbered(), cfg, seed=7) for _ in range(2))
    begun = go(first, 2)
    waiting = first.next(4)  # asked before the stop, scored after it, as partial rollouts do
    second.load_state_dict(first.state_dict())
    for questions in (first, second):
        questions.update([scored(waiting[0], 1, 0)])
    assert go(first, 3) == go(second, 3) and begun == expected[:2]


@pytest.mark.parametrize("order", QuestionOrder)
def test_no_test_question_is_asked(order):
    task = Countdown()
    cfg = RLConfig(steps=40, questions_per_step=8, questions=QuestionsConfig(order=order, pool=200))
    questions = build_questions(task, cfg, seed=0)
    asked = {tuple(sorted(q.meta["numbers"])) for _ in range(40) for q in questions.next(8)}
    assert not asked & {tuple(sorted(q.meta["numbers"])) for q in task.test_questions(500)}


def test_a_pool_smaller_than_a_step_is_refused():
    for order in (QuestionOrder.prioritised, QuestionOrder.uniform):
        with pytest.raises(ConfigError, match="rl.questions.pool=8"):
            RLConfig(questions_per_step=9, questions=QuestionsConfig(order=order, pool=8))
    with pytest.raises(ConfigError, match="the checkpoint's pool has 3"):
        Prioritised(Numbered(), pool=4, seed=0).load_state_dict(Prioritised(Numbered(), pool=3, seed=0).state_dict())
