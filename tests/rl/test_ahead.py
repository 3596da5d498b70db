"""Answers written a step ahead: what is ordered is what is taken, also after a resume, and failures come out."""

import threading

import pytest

from infra.errors import R1Error
from modeling.sampling import Sampled, SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.rollout.ahead import OneStepOff
from rl.rollout.sharing import Share, SharingEngine
from rl.types import Question
from training import parallel
from training.config import ParallelConfig

QUESTIONS = [Question(f"q{i}", "countdown", "Make 5.", "5", {"numbers": [2, 3], "target": i}) for i in range(2)]


class Engine(SharingEngine):
    """Writes the step's number; waits for `go` while it writes."""

    def __init__(self) -> None:
        parallel.init(ParallelConfig(), 0)
        super().__init__(Tokenizer.train(["a"], 262), SamplingConfig(), seed=0)
        self.go, self.threads, self.fails = threading.Event(), [], False
        self.go.set()

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        version = self.version
        self.threads.append(threading.current_thread())
        assert self.go.wait(60)
        if self.fails:
            raise R1Error("no answers today")
        places = [(q, g) for q in range(len(questions)) for g in range(group_size)]
        answers = [(place, Sampled([step, place[1]], [-1.0, -0.5], [0.5, 0.25], stopped=True)) for place in places]
        return Share(answers, version, proposed=10, accepted=4)

    def load_weights(self, model: object, version: int) -> None:
        self.version = version


def test_answers_are_written_beside_and_with_the_weights_of_the_order():
    engine = Engine()
    ahead = OneStepOff(engine)
    assert ahead.take() is None
    engine.load_weights(None, version=3)
    engine.go.clear()
    ahead.order(QUESTIONS, 3, step=7)  # returns although nothing is written yet
    engine.go.set()
    questions, answers, told = ahead.take()
    assert questions == QUESTIONS and [[c.tokens for c in group] for group in answers] == [[[7, 0], [7, 1], [7, 2]]] * 2
    assert {c.version for group in answers for c in group} == {3} and told == {"mtp/rollout_acceptance": 0.4}
    assert engine.threads[0] is not threading.main_thread()
    assert ahead.take() is None  # nothing more was ordered
    ahead.close()


def test_what_is_under_way_survives_a_resume():
    engine = Engine()
    ahead, resumed = OneStepOff(engine), OneStepOff(Engine())
    assert ahead.state_dict() == {}
    resumed.load_state_dict({})
    assert resumed.take() is None
    ahead.order(QUESTIONS, 2, step=4)
    state = ahead.state_dict()
    assert state == ahead.state_dict()  # it is not taken by being kept
    resumed.load_state_dict(state)
    assert resumed.take() == ahead.take() != None  # noqa: E711
    assert not resumed.engine.threads  # nothing was written again


def test_a_failure_comes_out_where_the_answers_are_wanted():
    engine = Engine()
    engine.fails = True
    ahead = OneStepOff(engine)
    ahead.order(QUESTIONS, 2, step=0)
    for ask in (ahead.wait, ahead.take):
        with pytest.raises(R1Error, match="no answers today"):
            ask()
    ahead.close()


def test_a_share_that_failed_fails_every_rank():
    engine = Engine()
    with pytest.raises(R1Error, match="the server hung up"):
        engine.gather(Share([], 0, problem="the server hung up"), QUESTIONS[:1], 1)
