"""Language of a text by counts made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.language import language_of, language_share, target_language, thinking_language_share, word_counts
from rl.types import Question


@pytest.mark.parametrize(
    "text, english, chinese, other",
    [
        ("3+5=8: +8=16 low *8=64 yes", 2, 0, 0),
        ("3+5=8: +8=16小 *8=64对", 0, 2, 0),
        ("检查 (3+5)*8=64 so wait", 2, 2, 0),
        ("<think>wait</think><answer>no</answer>", 2, 0, 0),  # tags are no words
        (r"\frac{x}{2} = \sqrt{n}, naïve", 1, 0, 0),  # commands and variables neither
        ("设 x = 3，则 x + 1 = 4", 0, 2, 0),
        ("don't", 1, 0, 0),
        ("", 0, 0, 0),
        ("١٢ 3 ÷ 🙂", 0, 0, 0),
        ("да, 好 yes", 1, 1, 1),
        ("so `while x` ```\nfor i in y\n``` then", 2, 0, 0),  # code
        ("so ``` never closed", 3, 0, 0),
    ],
)
def test_words_by_hand(text, english, chinese, other):
    assert word_counts(text) == {"en": english, "zh": chinese, "other": other}


def test_share_by_hand():
    assert language_share("检查 so wait low", "en") == 3 / 5
    assert language_share("检查 so wait low", "zh") == 2 / 5
    assert language_share("3+5", "en") is None
    with pytest.raises(ValueError, match="fr: is no language"):
        language_share("oui", "fr")


def test_only_the_thinking_counts():
    text = "看看 <think>so 那 so</think><answer>好的</answer>"
    assert thinking_language_share(text, "en") == 2 / 3
    assert thinking_language_share("<answer>so</answer>", "en") is None
    assert thinking_language_share("<think>so 那", "zh") == 1 / 2  # cut off before it was closed


def test_target_is_what_the_task_says_or_the_language_of_the_prompt():
    assert target_language(Question("q", "t", "User: Make 6 from 1, 2, 3.\nAssistant:", "")) == "en"
    assert target_language(Question("q", "t", "用户：用 1, 2, 3 算出 6。\n助手：", "")) == "zh"
    assert target_language(Question("q", "t", "Write 四十二 in English.", "", {"language": "zh"})) == "zh"
    assert language_of("3 + 5") == "en"


@given(st.text(max_size=200))
def test_shares_of_any_text_are_shares(text):
    shares = [language_share(text, language) for language in ("en", "zh")]
    assert shares == [None, None] or 0 <= sum(shares) <= 1 + 1e-9
