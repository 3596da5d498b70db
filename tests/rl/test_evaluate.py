"""The figures of an evaluation against numbers made by hand."""

import pytest

from infra.errors import ConfigError
from rl.budget import FORCED
from rl.evaluate import EvaluateConfig, evaluate_budgets, evaluate_tasks, summarise, together
from rl.rewards.base import RewardConfig
from rl.tasks.countdown import Countdown
from rl.tasks.general import GeneralTask
from rl.types import Completion, Group, Question
from tests.rl.fake_engine import FakeEngine, Letters


def answer(
    text: str, right: float, tokens: int, thinking: int, *, stopped: bool = True, form: float = 1.0
) -> Completion:
    parts = {"accuracy": right, "format": form}
    return Completion([1] * tokens, text, [], [], stopped=stopped, thinking_tokens=thinking, breakdown=parts)


GROUPS = [
    Group(
        Question("t/0", "t", "User: a?", "7"),
        [
            answer("<think>so low 小</think><answer>7</answer>", 1.0, 10, 4),
            answer("<think>wait</think><answer>8</answer>", 0.0, 20, 8),
            answer("<think>3+4</think><answer> 8.0 </answer>", 0.0, 30, 12, form=0.0),
            answer("<think>小", 0.0, 40, 40, stopped=False, form=0.0),
        ],
    ),
    Group(
        Question("t/1", "t", "用户：？", "7", {"language": "zh"}),
        [
            answer("<think>小</think><answer>7</answer>", 1.0, 6, 2),
            answer("<think>等等 so</think><answer>7.0</answer>", 1.0, 8, 2),
            answer("<answer>9</answer>", 0.0, 4, 0, form=0.0),
            answer("<answer>9</answer>", 0.0, 2, 0, form=0.0),
        ],
    ),
]


def test_every_figure_by_hand():
    found = summarise(GROUPS)
    assert (found.questions, found.samples) == (2, 4)
    assert found.pass_at_1.mean == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert {k: v.mean for k, v in found.pass_at_k.items()} == pytest.approx(
        {1: 3 / 8, 2: (1 - 3 / 6 + 1 - 1 / 6) / 2, 4: 1.0}  # C(3,2)/C(4,2) = 3/6, C(2,2)/C(4,2) = 1/6
    )
    assert found.majority_at_k.mean == 0.5  # 8 and 8.0 are one vote; 7 and 7.0 win over 9 and 9 by coming first
    assert found.format_rate.mean == 4 / 8
    assert found.truncated.mean == 1 / 8
    assert found.reflection_rate.mean == 2 / 8  # wait, 等等
    # shares: 2/3, 1, no words, 0 of an English one; 1, 2/3, none, none of a Chinese one
    assert found.language_consistency.mean == pytest.approx((2 / 3 + 1 + 0 + 1 + 2 / 3) / 5)
    response, thinking = found.response_tokens, found.thinking_tokens
    assert response.all.mean == 120 / 8 and thinking.all.mean == 68 / 8
    assert response.correct.mean == 24 / 3 and response.wrong.mean == 96 / 5 and response.truncated.mean == 40
    assert thinking.correct.mean == 8 / 3 and thinking.wrong.mean == 60 / 5 and thinking.truncated.mean == 40


def test_intervals_are_those_of_two_questions():
    found = summarise(GROUPS)
    assert (found.pass_at_1.low, found.pass_at_1.high) == (0.25, 0.5)  # both draws of one question
    assert (found.response_tokens.all.low, found.response_tokens.all.high) == (5.0, 25.0)
    assert (found.response_tokens.correct.low, found.response_tokens.correct.high) == (7.0, 10.0)
    for interval in (found.majority_at_k, found.format_rate, found.truncated, found.language_consistency):
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_what_nobody_did_has_no_length():
    alone = summarise([Group(GROUPS[1].question, GROUPS[1].completions[:2])])
    assert alone.response_tokens.wrong is None and alone.response_tokens.truncated is None
    silent = summarise([Group(GROUPS[0].question, [answer("<answer>7</answer>", 1.0, 3, 0)])])
    assert silent.language_consistency is None and "eval/language_consistency" not in silent.metrics("t")
    assert silent.pass_at_k.keys() == {1} and silent.metrics("t")["eval/t/pass_at_1"] == 1.0


def test_tasks_are_asked_by_themselves_and_together():
    refusal, sums = GeneralTask("refusal"), Countdown()
    right = {q.prompt: q.answer for q in refusal.test_questions(20) + sums.test_questions(50)}

    def say(question: Question, index: int) -> str:
        return f"<think>so</think><answer>{right.get(question.prompt, 'x') if index == 0 else 'x'}</answer>"

    engine = FakeEngine(say)
    found = evaluate_tasks(engine, [refusal, sums], RewardConfig(), questions=50, samples=2)
    assert list(found) == ["refusal", "countdown"]
    held = found["refusal"].questions
    assert 20 <= held < 50 and found["countdown"].questions == 50  # the one has no more
    assert found["countdown"].pass_at_1.mean == 0.5 and found["countdown"].pass_at_k[2].mean == 1.0
    both = together(found)
    assert both.questions == held + 50 and both.format_rate.mean == 1.0
    assert both.pass_at_1.mean == pytest.approx((20 * 0.5 + 50 * 0.5) / both.questions)


THINKING = "one two three"


def think_then_say(question: Question, index: int) -> str:
    """Right after the whole thinking; what goes on behind a cut says how much it had."""
    if question.prompt.endswith(FORCED):
        return f"{len(question.prompt.partition('<think>')[2]) - len(FORCED)}</answer>"
    return f"<think>{THINKING}</think><answer>all</answer>" if index == 0 else "<answer>at once</answer>"


def test_budgets_cut_the_same_thinking_and_ask_again():
    task = Countdown()
    engine = FakeEngine(think_then_say)
    free = evaluate_tasks(engine, [task], RewardConfig(), questions=3, samples=2)
    asked = len(engine.asked)
    found = evaluate_budgets(engine, Letters(), [task], RewardConfig(), free, [0, 4, len(THINKING), 99])
    texts = {budget: [c.text for c in by_task["countdown"].groups[0].completions] for budget, by_task in found.items()}
    assert texts[0][0] == "<think></think>\n<answer>0</answer>"
    assert texts[4][0] == "<think>one </think>\n<answer>4</answer>"
    assert texts[len(THINKING)][0] == texts[99][0] == f"<think>{THINKING}</think><answer>all</answer>"
    assert {t[1] for t in texts.values()} == {"<answer>at once</answer>"}  # no thinking to cut
    assert len(engine.asked) - asked == 2 * 3 and len({q.id for q in engine.asked[asked:]}) == 6
    assert [found[b]["countdown"].thinking_tokens.all.mean for b in found] == [0, 2, 6.5, 6.5]
    cut = found[4]["countdown"].groups[0].completions[0]
    assert len(cut.tokens) == len(cut.text) == len(cut.sampler_logprobs) == len(cut.entropies)
    assert free["countdown"].groups[0].completions[0].text.endswith("all</answer>")  # the free ones are left alone


def test_a_thinking_that_never_ends_is_closed_and_one_opened_by_the_prompt_is_cut():
    task = Countdown()
    engine = FakeEngine(lambda q, g: "1</answer>" if q.prompt.endswith(FORCED) else "<think>" + "on " * 99, 30)
    free = evaluate_tasks(engine, [task], RewardConfig(), questions=1, samples=1)
    assert free["countdown"].truncated.mean == 1.0
    found = evaluate_budgets(engine, Letters(), [task], RewardConfig(), free, [999])
    done = found[999]["countdown"].groups[0].completions[0]
    assert done.text == f"<think>{('on ' * 99)[:23]}</think>\n<answer>1</answer>" and done.stopped
    group = free["countdown"].groups[0]
    group.question.prompt += "<think>"
    evaluate_budgets(engine, Letters(), [task], RewardConfig(), free, [2])
    assert engine.asked[-1].prompt == group.question.prompt + "on</think>\n<answer>"


@pytest.mark.parametrize("budget", [[-1], [4, 4], [8, 4]])
def test_budgets_rise(budget):
    with pytest.raises(ConfigError, match="evaluate.budget=.*has to rise"):
        EvaluateConfig(budget=budget)
