"""Partial rollouts: what goes on, what is given when, what is kept of each part; and answers equal to whole ones."""

import dataclasses

import pytest

from infra.errors import ConfigError
from modeling.config import ModelConfig
from modeling.sampling import Sampled, SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import EngineName, Placement, RolloutConfig
from rl.rollout.partial import PartialRollouts, repeats
from rl.rollout.sharing import SharingEngine
from rl.types import Question
from training import parallel
from training.config import ParallelConfig

QUESTIONS = [Question(f"q{i}", "countdown", f"Make {i}.", "5", {"numbers": [2, 3], "target": i}) for i in range(6)]


class Engine(SharingEngine):
    """Writes answers of the lengths in `lengths`, question by question: token k of an answer is k; the end stops it."""

    def __init__(self, lengths: dict[str, list[int]], longest: int = 100) -> None:
        parallel.init(ParallelConfig(), 0)
        super().__init__(Tokenizer.train(["a"], 262), SamplingConfig(), seed=0)
        self.lengths, self.longest, self.asked, self.loops = lengths, longest, [], False
        self.of_prompt = {tuple(self.prompt_ids(q)): q.id for q in QUESTIONS}
        self.seen: dict[str, list[int]] = {}

    def limit(self, prompt: list[int]) -> int:
        return self.longest

    def go_on(self, prompts, begun, seeds, *, more):
        self.asked.append(sorted(map(len, begun)))
        written = []
        for prompt, start, seed in zip(prompts, begun, seeds, strict=True):
            name = self.of_prompt[tuple(prompt)]
            places = self.seen.setdefault(name, [])
            if seed not in places:
                places.append(seed)
            length = min(self.lengths[name][places.index(seed)], self.longest)
            tokens = [7 if self.loops else k for k in range(len(start), min(length, len(start) + more))]
            stopped = len(start) + len(tokens) == length < self.longest
            written.append(Sampled(tokens, [-0.01 * self.version] * len(tokens), [0.5] * len(tokens), stopped))
        return written


def test_groups_are_given_when_their_last_answer_has_ended():
    engine = Engine({"q0": [2, 3], "q1": [2, 9], "q2": [1, 1], "q3": [10, 4]})
    rollouts = PartialRollouts(engine, RolloutConfig(partial_tokens=4))
    asked, answers, told = rollouts.generate(QUESTIONS[:2], 2, step=0)
    assert [q.id for q in asked] == ["q0"] and [[len(c.tokens) for c in g] for g in answers] == [[2, 3]]
    assert told == {"rl/partial_groups": 1.0, "rl/partial_unfinished": 1.0, "rl/partial_carried_frac": 0.0}
    engine.version = 5
    asked, answers, told = rollouts.generate(QUESTIONS[2:4], 2, step=1)
    assert [q.id for q in asked] == ["q2"] and told["rl/partial_unfinished"] == 2
    engine.version = 6
    asked, answers, told = rollouts.generate([], 2, step=2)
    assert [q.id for q in asked] == ["q1"] and told["rl/partial_carried_frac"] == 0.5
    short, long = answers[0]
    assert long.tokens == list(range(9)) and long.stopped and long.version == 6
    assert long.segments == [(0, 4), (5, 4), (6, 1)] and long.last_segment == 8
    assert long.sampler_logprobs == pytest.approx([0.0] * 4 + [-0.05] * 4 + [-0.06]) and len(long.entropies) == 9
    assert short.segments == [(0, 2)] and short.last_segment == 0 and short.version == 0
    assert engine.asked == [[0, 0, 0, 0], [0, 0, 0, 0, 4], [4, 8]]  # what has ended is not read again


def test_where_no_group_would_be_complete_the_same_weights_write_on():
    engine = Engine({"q0": [9, 3]})
    asked, answers, _ = PartialRollouts(engine, RolloutConfig(partial_tokens=4)).generate(QUESTIONS[:1], 2, step=0)
    assert [q.id for q in asked] == ["q0"] and answers[0][0].segments == [(0, 9)] and len(engine.asked) == 3


def test_the_longest_answers_are_cut_and_not_stopped():
    engine = Engine({"q0": [12, 3]}, longest=8)
    _, answers, _ = PartialRollouts(engine, RolloutConfig(partial_tokens=4)).generate(QUESTIONS[:1], 2, step=0)
    assert len(answers[0][0].tokens) == 8 and not answers[0][0].stopped and answers[0][1].stopped


def test_loops_are_ended_early_and_flagged():
    engine = Engine({"q0": [90, 3]})
    engine.loops = True
    cfg = RolloutConfig(partial_tokens=10, repeat_ngram=8, repeat_times=3)
    _, answers, told = PartialRollouts(engine, cfg).generate(QUESTIONS[:1], 2, step=0)
    long, short = answers[0]
    assert len(long.tokens) == 30 and long.repeats and not long.stopped and not short.repeats
    assert told["rl/repetition_frac"] == 0.5


@pytest.mark.parametrize(
    "tokens, ngram, times, loops",
    [
        ([1, 2, 3, 2, 3, 2, 3], 2, 3, True),
        ([2, 3, 1, 2, 3], 2, 3, False),
        ([2, 3, 9, 9, 2, 3, 9, 2, 3], 2, 3, True),  # not one behind the other
        ([2, 3, 2, 3, 2, 3, 4], 2, 3, False),  # it has got out
        ([5] * 5, 2, 3, False),  # without overlap there are two
        ([5] * 6, 2, 3, True),
        ([5] * 50, 0, 2, False),
        ([], 2, 2, False),
    ],
)
def test_repetition_by_hand(tokens, ngram, times, loops):
    assert repeats(tokens, ngram, times) is loops


def test_the_buffer_survives_a_resume():
    lengths = {"q0": [2, 3], "q1": [2, 9], "q2": [1, 1], "q3": [10, 4], "q4": [5, 5], "q5": [3, 3]}
    engine, other = Engine(lengths), Engine(lengths)
    cfg = RolloutConfig(partial_tokens=4)
    rollouts, resumed = PartialRollouts(engine, cfg), PartialRollouts(other, cfg)
    rollouts.generate(QUESTIONS[:4], 2, step=0)
    state = rollouts.state_dict()
    other.seen = {name: list(seeds) for name, seeds in engine.seen.items()}
    resumed.load_state_dict(state)
    engine.version = other.version = 3
    assert rollouts.generate(QUESTIONS[4:], 2, step=1) == resumed.generate(QUESTIONS[4:], 2, step=1)
    assert rollouts.state_dict() == resumed.state_dict() != state


@pytest.mark.parametrize(
    "key, values",
    [
        ("partial_tokens", dict(partial_tokens=-1)),
        ("partial_tokens", dict(partial_tokens=8, engine=EngineName.vllm)),
        ("partial_tokens", dict(partial_tokens=8, one_step_off=True, placement=Placement.separate)),
        ("repeat_ngram", dict(repeat_ngram=8)),
        ("repeat_times", dict(repeat_times=1)),
    ],
)
def test_impossible_settings_are_refused(key, values):
    with pytest.raises(ConfigError, match=f"rl.rollout.{key}"):
        RolloutConfig(**values)


def test_partial_answers_are_the_whole_answers_while_the_weights_stay():
    """The distribution is the same because the answers are: token by token, whatever the budget and the company."""
    from modeling.build import build_model
    from rl.rollout.local import LocalEngine

    parallel.init(ParallelConfig(), 0)
    tokenizer = Tokenizer.train(["a"], 262)
    cfg = ModelConfig.preset("tiny").for_vocab(tokenizer.num_tokens)
    engine = LocalEngine(build_model(cfg).eval(), cfg, tokenizer, SamplingConfig(max_response_tokens=60), seed=3)
    engine.stop_ids = set(range(0, 262, 20))  # random weights: an answer ends after 19 tokens or so
    expected = {q.id: engine.generate([q], 4, step=step)[0] for step, q in enumerate(QUESTIONS)}
    rollouts = PartialRollouts(engine, RolloutConfig(partial_tokens=16))
    given = {}
    for step in range(12):
        if rollouts.state_dict()["buffer"] or step < len(QUESTIONS):
            asked, answers, _ = rollouts.generate(QUESTIONS[step : step + 1], 4, step=step)
            given |= {q.id: group for q, group in zip(asked, answers, strict=True)}
    assert given.keys() == expected.keys()
    carried = 0
    for name, group in given.items():
        for part, whole in zip(group, expected[name], strict=True):
            carried += len(part.tokens) > 16
            assert part.segments == [(0, len(part.tokens))]
            assert part.sampler_logprobs == pytest.approx(whole.sampler_logprobs, abs=1e-4)
            assert part.entropies == pytest.approx(whole.entropies, abs=1e-4)
            same = dict(sampler_logprobs=[], entropies=[], segments=[])
            assert dataclasses.replace(part, **same) == dataclasses.replace(whole, **same)
    assert 5 < carried < 24
