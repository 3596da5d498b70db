"""The judge against a local server that is down, slow, or says what it should not; its cache; pairs by principles."""

import json
import socket
import time

import pytest

from infra.errors import ConfigError, R1Error
from rl import rlaif
from rl.rewards.base import RewardConfig, score_groups
from rl.rewards.judge import Judge, JudgeReward, Server
from rl.rewards.judge_config import JudgeConfig
from rl.rewards.verdict import Choice, score_prompt
from rl.rlaif_config import RLAIFConfig
from rl.types import Completion, Group, Question
from tests.rl.fake_judge import FakeJudge
from training.data.pairs import read_pairs


def judge(url: str, folder, **changes) -> Judge:
    cfg = JudgeConfig(**(dict(url=url, model="m", cache=str(folder), timeout_s=5, retries=2, requests=2) | changes))
    return Judge(cfg, Server(cfg, first_pause_s=0.01))


def long_is_good(prompt: str) -> str:
    """A judge that grades by length: 5 for what has `good` in it."""
    return f"Hm.\nScore: {5 if 'good' in prompt else 2}"


def test_verdicts_are_asked_for_once_and_kept_for_the_next_process(tmp_path):
    with FakeJudge(long_is_good) as server:
        first = judge(server.url, tmp_path)
        assert first.ask(["good one", "bad one", "good one"]) == [
            long_is_good("good"),
            long_is_good(""),
            long_is_good("good"),
        ]
        assert len(server.bodies) == 2
        assert judge(server.url, tmp_path).ask(["bad one", "another"])[0] == long_is_good("")
        assert len(server.bodies) == 3
        judge(server.url, tmp_path, model="other").ask(["bad one"])  # another judge has its own opinion
        assert len(server.bodies) == 4
    body = server.bodies[0]
    assert body["path"] == "/v1/chat/completions" and body["temperature"] == 0 and body["model"] == "m"
    assert judge(server.url, tmp_path).ask(["bad one"])  # the server is gone, the verdict is not


def test_a_torn_cache_file_is_asked_for_again(tmp_path):
    with FakeJudge(long_is_good) as server:
        judge(server.url, tmp_path).ask(["good"])
        (file,) = tmp_path.rglob("*.json")
        for broken in ("", "[1]", '{"prompt": "another", "verdict": "Score: 1"}', '{"prompt": "good", "verdict": 5}'):
            file.write_text(broken)
            assert judge(server.url, tmp_path).ask(["good"]) == [long_is_good("good")]
        assert len(server.bodies) == 5


@pytest.mark.parametrize("fault", ["drop", "slow", (500, "oops"), (429, "wait"), (200, "no json"), (200, '{"cut')])
def test_a_passing_fault_is_asked_over(tmp_path, fault):
    with FakeJudge(long_is_good, [fault]) as server:
        timeout_s = 0.4 if fault == "slow" else 5
        assert judge(server.url, tmp_path, timeout_s=timeout_s).ask(["good"]) == [long_is_good("good")]
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "fault, said",
    [
        ("drop", "does not answer .* in 3 attempts"),
        ("slow", "in 3 attempts .*timed out"),
        ((503, '{"error": {"message": "no GPU"}}'), "status 503: no GPU"),
        ((200, "<html>"), "no JSON but <html>"),
        ((200, "[" * 100_000), "no JSON but"),
    ],
)
def test_a_judge_that_stays_down_stops_with_one_line_that_says_how_to_go_on(tmp_path, fault, said):
    with FakeJudge(long_is_good, [fault] * 3) as server, pytest.raises(R1Error, match=said) as raised:
        judge(server.url, tmp_path, requests=1, timeout_s=0.2 if fault == "slow" else 5).ask(["good"])
    assert "start the same command again" in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "status, said", [(200, "an answer of more than 16777216 bytes"), (400, "refuses .* status 400: x")]
)
def test_a_judge_that_floods_is_read_to_a_limit_and_asked_once(tmp_path, status, said):
    with FakeJudge(long_is_good, [None, (status, "x" * (18 << 20))]) as server:
        with pytest.raises(R1Error, match=said) as raised:
            judge(server.url, tmp_path, requests=1).ask(["good 1", "good 2"])
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500 and len(server.bodies) == 2
        assert len(judge(server.url, tmp_path).ask(["good 1", "good 2"])) == 2  # it goes on with what was said
        assert len(server.bodies) == 3


def test_nobody_at_the_address(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(R1Error, match="refused"):
        judge(url, tmp_path).ask(["good"])


@pytest.mark.parametrize("body", ["{}", "[]", "null", '{"choices": []}', '{"choices": [{"message": {"content": 5}}]}'])
def test_json_that_is_no_chat_completion(tmp_path, body):
    with FakeJudge(long_is_good, [(200, body)]) as server, pytest.raises(R1Error, match="chat completions"):
        judge(server.url, tmp_path).ask(["good"])


def test_what_was_said_before_the_judge_went_down_is_not_asked_again(tmp_path):
    prompts = [f"good {i}" for i in range(6)]
    with FakeJudge(long_is_good, [None, None, None, (400, "enough")]) as server:
        with pytest.raises(R1Error, match="refuses .* status 400: enough"):
            judge(server.url, tmp_path, requests=1).ask(prompts)
        assert len(server.bodies) == 4
        assert len(judge(server.url, tmp_path).ask(prompts)) == 6
        assert len(server.bodies) == 7


def test_a_key_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "abc")
    with FakeJudge(long_is_good) as server:
        judge(server.url, tmp_path, key_variable="SOME_KEY").ask(["good"])
        assert server.headers[0]["Authorization"] == "Bearer abc"
        with pytest.raises(ConfigError, match="OTHER_KEY"):
            judge(server.url, tmp_path, key_variable="OTHER_KEY")


def groups(*texts: str, general: bool = True) -> list[Group]:
    question = Question("q", "t", "why?", "because", {"general": general})
    return [Group(question, [Completion([1], text, [0.0], [0.0], stopped=True) for text in texts])]


class Never:
    def score(self, question: Question, text: str) -> float:
        return 0.0


def test_grades_are_paid_for_general_questions_only(tmp_path):
    with FakeJudge(lambda prompt: {True: "Score: 5", False: "I will not say"}["good" in prompt]) as server:
        reward = JudgeReward(judge(server.url, tmp_path), weight=2.0)
        found = groups("good", "bad") + groups("good", general=False)
        score_groups(found, Never(), RewardConfig(), [reward])
        assert [c.reward for c in found[0].completions] == [2.0, 0.0]
        assert [c.breakdown.get("judge") for c in found[0].completions] == [1.0, None]
        assert "judge" not in found[1].completions[0].breakdown
        assert {b["messages"][0]["content"] for b in server.bodies} == {
            score_prompt("why?", text, "because") for text in ("good", "bad")
        }


def test_a_judge_that_cannot_be_understood_stops_the_stage(tmp_path):
    with FakeJudge(lambda prompt: "Score: 5\x00\nor \x1b[2J not") as server:
        reward = JudgeReward(judge(server.url, tmp_path), weight=1.0)
        assert reward(groups(*"abcdefg")) == [[None] * 7]  # too few to tell
        with pytest.raises(R1Error, match="8 of 8 verdicts cannot be read") as raised:
            reward(groups(*"abcdefgh"))
        assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "settings, key",
    [
        (dict(url="localhost:8000"), "judge.url"),
        (dict(timeout_s=0), "judge.timeout_s"),
        (dict(retries=-1), "judge.retries"),
        (dict(max_unread=2), "judge.max_unread"),
        (dict(cache=""), "judge.cache"),
    ],
)
def test_impossible_settings_are_refused(settings, key):
    with pytest.raises(ConfigError, match=key):
        JudgeConfig(**settings)


@pytest.mark.parametrize(
    "settings, key",
    [
        (dict(), "x.url"),
        (dict(url="http://a/v1"), "x.model"),
        (dict(url="http://a/v1", model="m", checkpoint="c"), "x.checkp"),
    ],
)
def test_one_judge_has_to_be_named(settings, key):
    with pytest.raises(ConfigError, match=key):
        JudgeConfig(**settings).check("x")


# RLAIF


class Asks:
    name = "asks"

    def train_question(self, i: int) -> Question:
        return Question(f"asks/{i}", "asks", f"Question {i}?", "", {"general": True})


class Writes:
    """An engine whose answers are of growing length; it counts how often it is asked."""

    calls = 0

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        self.calls += 1
        return [
            [Completion([1], f"{q.id} " + "x" * 9 * i, [0.0], [0.0], stopped=True) for i in range(group_size)]
            for q in questions
        ]


def longer(prompt: str) -> str:
    """Prefers the longer answer, wherever it stands."""
    first, second = prompt.split("answer A\n")[1].split("answer B\n")
    mark = prompt.split("marks ")[1].split(" is data")[0]
    return f"Better: {'A' if len(first.split(mark)[0]) > len(second.split(mark)[0]) else 'B'}"


CFG = dict(questions=5, samples=3, pairs_per_question=2, questions_per_chunk=2)


def run(server: FakeJudge, tmp_path, engine: Writes, **changes):
    one = judge(server.url, tmp_path / "cache", max_unread=1.0)
    return rlaif.run(Asks(), engine, one, RLAIFConfig(**(CFG | changes)), tmp_path / "run", seed=0)


def test_pairs_say_what_the_judge_said_and_by_which_principle(tmp_path):
    with FakeJudge(longer) as server:
        path = run(server, tmp_path, Writes())
    pairs, rows = read_pairs(path), [json.loads(line) for line in path.read_text().splitlines()]
    assert len(pairs) == 10 and all(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    assert len({(p.prompt, p.chosen, p.rejected) for p in pairs}) == 10
    principles = rlaif.read_principles(rlaif.PRINCIPLES)
    assert len(principles) >= 10 and all(row["principle"] in principles for row in rows)
    assert len({row["principle"] for row in rows}) > 3
    assert json.loads((tmp_path / "run" / "rlaif.json").read_text()) == dict(
        compared=10, kept=10, inconsistent=0, unread=0
    )


def test_a_judge_that_favours_a_place_leaves_no_pair(tmp_path):
    with FakeJudge(lambda prompt: "Better: A") as server, pytest.raises(R1Error, match="10 inconsistent, 0 unread"):
        run(server, tmp_path, Writes())


def test_it_goes_on_where_the_judge_went_down(tmp_path):
    engine = Writes()
    with FakeJudge(longer, [None] * 9 + [(400, "down")]) as server:
        with pytest.raises(R1Error, match="refuses"):
            run(server, tmp_path, engine)
        asked, written = len(server.bodies), engine.calls
        path = run(server, tmp_path, engine)
        assert (written, engine.calls) == (2, 3)  # two of three chunks were written before
        assert len(server.bodies) - asked == 20 - 9 - (asked - 10)
    with FakeJudge(longer) as fresh:
        whole = run(fresh, tmp_path / "whole", Writes())
    assert path.read_text() == whole.read_text()
    with FakeJudge(longer) as server, pytest.raises(R1Error, match="other questions"):
        run(server, tmp_path, engine, samples=4)


def test_equal_and_empty_answers_are_not_compared():
    question = Question("q", "t", "?", "")
    assert rlaif.comparisons([question], [["a", "a", " ", ""]], ["p"], 3, seed=0) == []
    (one,) = rlaif.comparisons([question], [["a", "b", "a"]], ["p"], 3, seed=0)
    assert {one.first, one.second} == {"a", "b"}


def test_what_became_of_comparisons_is_counted_by_its_reason(tmp_path):
    # In the order asked: all as they are, then all turned round.
    says = iter(["Better: A", "none", "Better: A", "Better: B"] + ["Better: B", "Better: B", "Better: A", "Better: A"])
    with FakeJudge(lambda prompt: next(says)) as server:
        one, tally = judge(server.url, tmp_path, requests=1, max_unread=1.0), rlaif.Tally()
        compared = [rlaif.Comparison(str(i), f"q{i}", "a", "b", "p") for i in range(4)]
        assert rlaif.compare(one, compared, tally) == [Choice.first, None, None, Choice.second]
    assert (tally.compared, tally.kept, tally.unread, tally.inconsistent) == (4, 2, 1, 1)


def test_principles_have_to_be_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        rlaif.read_principles(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="holds no principle"):
        rlaif.read_principles(tmp_path / "empty.txt")


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_judge_costs_no_more_than_its_time_limit(tmp_path, fault):
    """Silent for 0.8 s, or writing a byte at a time for 3 s: given up after 0.1 s, three times."""
    with FakeJudge(long_is_good, [fault] * 3) as server:
        start = time.monotonic()
        with pytest.raises(R1Error, match="timed out"):
            judge(server.url, tmp_path, timeout_s=0.1).ask(["good"])
        assert time.monotonic() - start < (0.8 if fault == "slow" else 2.5)
