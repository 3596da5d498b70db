"""Long2short by hand-made answers: the shortest right one, what is rejected for it, the files, and a resume."""

import json

import pytest

from infra.errors import ConfigError, R1Error
from rl.long2short import Answer, Long2ShortConfig, Long2ShortMethod, pair_rows, rejected, sft_rows, shortest_right
from rl.rewards.base import RewardConfig
from rl.stages import long2short
from rl.types import Completion, Question

RIGHT_20, RIGHT_10, RIGHT_14, RIGHT_15 = (Answer(f"right {n}", n, True) for n in (20, 10, 14, 15))
WRONG_5, WRONG_10, WRONG_11 = (Answer(f"wrong {n}", n, False) for n in (5, 10, 11))
ALL = [RIGHT_20, WRONG_5, RIGHT_10, WRONG_10, RIGHT_14, WRONG_11, RIGHT_15, RIGHT_20]


def test_the_shortest_right_answer_by_hand():
    assert shortest_right(ALL) is RIGHT_10
    assert shortest_right([WRONG_5, RIGHT_20]) is RIGHT_20
    assert shortest_right([WRONG_5]) is None and shortest_right([]) is None


def test_negatives_by_hand():
    assert rejected(ALL, RIGHT_10, 1.5) == [RIGHT_20, WRONG_11, RIGHT_15]  # 14 < 1.5 x 10; wrong and short; twice
    assert rejected(ALL, RIGHT_10, 2.5) == [WRONG_11]


def test_rows_by_hand():
    asked = [("Q1", ALL), ("Q2", [WRONG_5]), ("Q3", [RIGHT_14])]
    assert sft_rows(asked) == [{"prompt": "Q1", "response": "right 10"}, {"prompt": "Q3", "response": "right 14"}]
    pairs = [{"prompt": "Q1", "chosen": "right 10", "rejected": text} for text in ("right 20", "wrong 11", "right 15")]
    assert pair_rows(asked, 1.5) == pairs


class Task:
    name = "echo"

    def train_question(self, i: int) -> Question:
        return Question(f"q{i}", self.name, f"问 {i}", "right")

    def score(self, question: Question, text: str) -> float:
        return float("right" in text)


class Engine:
    """Answers question i with 3 + i, 6 + 2i, 9 + 3i ... tokens; those at odd places are wrong, the first is cut."""

    def __init__(self) -> None:
        self.asked, self.dies_at = [], None

    def generate(self, questions, group_size, *, step):
        if self.dies_at == len(self.asked):
            raise KeyboardInterrupt
        self.asked.append([q.id for q in questions])
        groups = []
        for question in questions:
            lengths = [(3 + int(question.id[1:])) * (place + 1) for place in range(group_size)]
            texts = [f"{'wrong' if place % 2 else 'right'} {length}" for place, length in enumerate(lengths)]
            groups.append(
                [
                    Completion([1] * length, text, [0.0] * length, [], stopped=place > 0)
                    for place, (length, text) in enumerate(zip(lengths, texts, strict=True))
                ]
            )
        return groups


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", [Long2ShortMethod.rejection, Long2ShortMethod.dpo])
def test_files_hold_what_the_answers_say(tmp_path, method):
    cfg = Long2ShortConfig(method=method, questions=2, samples=6)
    path = long2short.run(Engine(), Task(), RewardConfig(), cfg, tmp_path)
    # Of lengths 3 6 9 12 15 18 the third and the fifth are right; the first was cut.
    if method is Long2ShortMethod.rejection:
        assert path.name == "sft.jsonl"
        assert lines(path) == [{"prompt": f"问 {i}", "response": f"right {n}"} for i, n in ((0, 9), (1, 12))]
    else:
        assert path.name == "pairs.jsonl"
        expected = [
            ("right 9", ("wrong 12", "right 15", "wrong 18")),
            ("right 12", ("wrong 16", "right 20", "wrong 24")),
        ]
        assert lines(path) == [
            {"prompt": f"问 {i}", "chosen": chosen, "rejected": text}
            for i, (chosen, texts) in enumerate(expected)
            for text in texts
        ]
    told = json.loads((tmp_path / "long2short.json").read_text())
    assert told["solved"] == 1.0 and told["right"] == pytest.approx(1 / 3) and told["rows"] == len(lines(path))
    assert told["tokens_of_shortest"] == 10.5 and told["tokens_of_right"] == 14.0


def test_what_is_asked_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(long2short, "CHUNK", 2)
    cfg = Long2ShortConfig(method=Long2ShortMethod.rejection, questions=5, samples=4)
    engine = Engine()
    engine.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        long2short.run(engine, Task(), RewardConfig(), cfg, tmp_path)
    engine.dies_at = None
    resumed = long2short.run(engine, Task(), RewardConfig(), cfg, tmp_path)
    assert engine.asked == [["q0", "q1"], ["q2", "q3"], ["q4"]]
    whole = long2short.run(Engine(), Task(), RewardConfig(), cfg, tmp_path / "whole")
    assert lines(resumed) == lines(whole) and len(lines(whole)) == 5


def test_a_model_that_is_never_right_gives_no_empty_file(tmp_path):
    class Strict(Task):
        def score(self, question: Question, text: str) -> float:
            return 0.0

    cfg = Long2ShortConfig(method=Long2ShortMethod.dpo, questions=2)
    with pytest.raises(R1Error, match="not one of 2 questions"):
        long2short.run(Engine(), Strict(), RewardConfig(), cfg, tmp_path)
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    "key, values, told",
    [
        ("long2short.checkpoint", dict(), (0.5, 256)),
        ("long2short.short", dict(checkpoint="a"), (0.5, 256)),
        ("reward.length", dict(checkpoint="a", method=Long2ShortMethod.rl), (0.0, 256)),
        ("long2short.response_tokens", dict(checkpoint="a", method=Long2ShortMethod.rl), (0.5, 128)),
    ],
)
def test_what_a_method_lacks_is_named(key, values, told):
    with pytest.raises(ConfigError, match=key):
        Long2ShortConfig(**values).check(*told)


@pytest.mark.parametrize(
    "key, value", [("share", 1.5), ("questions", 0), ("samples", 1), ("longer", 1.0), ("response_tokens", 0)]
)
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"long2short.{key}"):
        Long2ShortConfig(**{key: value})
