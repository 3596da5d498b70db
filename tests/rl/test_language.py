"""Language by hand: what counts as a word, what is neutral; hostile text takes linear time."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.language import Language, language_of, language_share
from rl.rewards.language import language_reward, target_of
from rl.types import Question

EN, ZH = Language.english, Language.chinese
MEGA = 1_000_000


@pytest.mark.parametrize(
    "text, english, chinese",
    [
        ("so we try again", 1, 0),
        ("太小太大", 0, 1),
        ("low 小 high 大", 1 / 2, 1 / 2),
        ("那就 check", 1 / 3, 2 / 3),
        ("3+5=8: +8=16 -8=0", 1, 1),
        ("", 1, 1),
        ("x = 3, y = 4, 设 n", 0, 1),  # single letters are variables
        ("don't isn't", 1, 0),
        ("a naïve café", 1, 0),
        ("это low", 1 / 2, 0),
        ("ひらがな 小", 0, 1 / 2),
        ("<think>小</think><answer>大</answer>", 0, 1),
        ("小 ```print(hello)``` 大", 0, 1),
        ("小 ```print hello", 2 / 3, 1 / 3),  # an open fence hides nothing
        ("小 `hello world` \\frac{1}{2}", 0, 1),
        ("１２３ ٣ ½", 1, 1),
        ("under_score two", 1, 0),
    ],
)
def test_shares_by_hand(text, english, chinese):
    assert language_share(text, EN) == pytest.approx(english)
    assert language_share(text, ZH) == pytest.approx(chinese)


@pytest.mark.parametrize(
    "text, language",
    [
        ("User: Make 12 from 3, 4.\nAssistant:", EN),
        ("用户：用3、4得12。\n助手：", ZH),
        ("12", EN),
        ("", EN),
        ("好 ok", ZH),
    ],
)
def test_the_language_of_a_question_by_hand(text, language):
    assert language_of(text) is language


def test_the_reward_reads_the_thinking_alone_against_the_questions_language():
    question = Question("q", "t", "User: Make 12?\nAssistant:", "")
    assert target_of(question) is EN
    assert language_reward(question, "<think>low 小 小 小</think><answer>大大大</answer>") == 1 / 4
    question.meta["language"] = "chinese"
    assert language_reward(question, "<think>low 小 小 小</think><answer>so</answer>") == 3 / 4
    assert language_reward(question, "<think>小 小 cut off") == 2 / 4
    question.meta["language"] = "klingon"
    assert target_of(question) is EN


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_shares_that_leave_room_for_each_other(text):
    english, chinese = language_share(text, EN), language_share(text, ZH)
    assert 0 <= english <= 1 and 0 <= chinese <= 1
    letters = [c for c in text if unicodedata.category(c).startswith("L")]
    assert english + chinese <= 1 or english == chinese == 1
    if not letters:
        assert english == chinese == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["low", "wait", "小", "大", "12", "+"]), max_size=20))
def test_shares_against_a_count_of_the_pieces(pieces):
    words = [p for p in pieces if p in ("low", "wait", "小", "大")]
    share = sum(p in ("low", "wait") for p in words) / len(words) if words else 1
    assert language_share(" ".join(pieces), EN) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    ["a" * MEGA, "`" * MEGA, "```" * (MEGA // 3), "\\" * MEGA, "<" * MEGA, "a'" * (MEGA // 2), "小" * MEGA, "_" * MEGA],
)
def test_a_megabyte_takes_linear_time(text):
    start = time.process_time()
    language_share(text, EN)
    assert time.process_time() - start < 3
