"""Several tasks as one: shares, splits and judges of each."""

import pytest

from infra.errors import ConfigError
from rl.tasks.base import TaskConfig
from rl.tasks.countdown import Countdown
from rl.tasks.gym import GymTask
from rl.tasks.mix import Mix, build_task

NAMES = ["countdown", "chain_sum", "spell_backward"]


def mix(seed: int = 0, weights: tuple[float, ...] = (2.0, 1.0, 1.0)) -> Mix:
    return build_task(TaskConfig(names=NAMES, weights=list(weights), seed=seed))


def test_one_name_builds_that_task_and_several_a_mix():
    assert isinstance(build_task(TaskConfig()), Countdown)
    gym = build_task(TaskConfig(names=["gcd"], seed=3))
    assert isinstance(gym, GymTask) and (gym.name, gym.seed) == ("gcd", 3)
    assert isinstance(mix(), Mix)
    assert [TaskConfig(names=names).label for names in (["gcd"], NAMES)] == ["gcd", mix().name]


def test_training_questions_come_from_each_task_by_weight():
    task = mix()
    asked = [task.train_question(i) for i in range(1000)]
    counts = [sum(q.task == name for q in asked) for name in NAMES]
    for count, share in zip(counts, (0.5, 0.25, 0.25), strict=True):
        assert abs(count - 1000 * share) < 4.5 * (1000 * share * (1 - share)) ** 0.5
    assert len({q.id for q in asked}) == 1000


def test_no_weights_are_equal_shares():
    task = build_task(TaskConfig(names=["countdown", "gcd"]))
    assert abs(sum(task.train_question(i).task == "gcd" for i in range(400)) - 200) < 45


def test_training_question_depends_on_seed_and_number_only():
    first, again, other = mix(), mix(), mix(1)
    assert [first.train_question(i) for i in (9, 4)] == [again.train_question(i) for i in (4, 9)][::-1]
    assert [first.train_question(i).prompt for i in range(20)] != [other.train_question(i).prompt for i in range(20)]


@pytest.mark.parametrize(
    "n, weights, counts",
    [
        (8, (2, 1, 1), [4, 2, 2]),
        (100, (2, 1, 1), [50, 25, 25]),
        (10, (1, 1, 1), [3, 4, 3]),
        (1, (1, 1, 8), [0, 0, 1]),
        (7, (0.1, 0.2, 0.7), [1, 1, 5]),
        (0, (1, 1, 1), [0, 0, 0]),
    ],
)
def test_test_questions_are_shared_out_by_weight(n, weights, counts):
    asked = mix(weights=weights).test_questions(n)
    assert [q.task for q in asked] == [name for name, count in zip(NAMES, counts, strict=True) for _ in range(count)]


def test_training_and_test_questions_are_disjoint():
    task = mix()
    held = task.test_questions(400)
    sets = {tuple(sorted(q.meta["numbers"])) for q in held if q.task == "countdown"}
    assert len({q.prompt for q in held}) == 400 and len(sets) == 21
    for seed in (0, 1):
        other = mix(seed)
        trained = [other.train_question(i) for i in range(1000)]
        assert not {q.prompt for q in trained} & {q.prompt for q in held}
        assert not {tuple(sorted(q.meta["numbers"])) for q in trained if q.task == "countdown"} & sets
    assert mix(seed=5).test_questions(400) == held


def test_each_question_is_judged_by_its_own_task():
    task = mix()
    questions = task.test_questions(12)
    for question in questions:
        assert task.score(question, f"<answer>{question.answer}</answer>") == 1.0
        assert task.score(question, "<answer>no</answer>") == 0.0
    summed = next(q for q in questions if q.task == "chain_sum")
    assert task.score(summed, f"<answer>({summed.answer})</answer>") == 0.0  # brackets are countdown's
    made = next(q for q in questions if q.task == "countdown")
    assert task.score(made, f"<answer>({made.answer})</answer>") == 1.0
    assert task.score(made, f"<answer>{made.meta['target']}</answer>") == 0.0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"names": []}, "task.names=.*nothing to ask"),
        ({"names": ["gcd", "gcd"]}, "task.names=.*twice"),
        ({"names": ["gcd", "countdown"], "weights": [1.0]}, "task.weights=.*2 tasks"),
        ({"names": ["gcd"], "weights": [0.0]}, "task.weights=.*positive"),
        ({"names": ["gcd"], "weights": [float("nan")]}, "task.weights=.*positive"),
        ({"seed": -1}, "task.seed=-1.*negative"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TaskConfig(**values)


def test_unknown_task_is_refused_with_the_names_that_exist():
    with pytest.raises(ConfigError, match="task.names=sudoku.*countdown, chain_sum, products, gcd"):
        build_task(TaskConfig(names=["countdown", "sudoku"]))
