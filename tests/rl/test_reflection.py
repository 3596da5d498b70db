"""What counts as a self-check, by hand."""

import pytest

from rl.reflection import reflection_rate, reflects, self_checks, thinking_of


@pytest.mark.parametrize(
    "word",
    [
        *["check", "checks", "checked", "checking", "recheck", "double-check", "verify", "verifies", "verified"],
        *["verifying", "wait", "reconsider", "re-examine", "reexamine", "reevaluate", "re-evaluate"],
        *["Wait", "CHECK", "检查", "验算", "验证", "等等", "重新", "再想"],
    ],
)
def test_words_that_count(word):
    for thinking in (word, f"so {word}, then", f"a\n{word}:\nb", f"先{word}一下"):
        assert reflects(f"<think>{thinking}</think><answer>1</answer>"), thinking


@pytest.mark.parametrize(
    "word",
    ["checkers", "paycheck", "waiter", "await", "waiting", "verification", "considered", "examine", "evaluate", "low"]
    + ["check_1", "high", "so", "检", "等", "对", "那就"],
)
def test_words_that_do_not_count(word):
    assert not reflects(f"<think>{word} 3+5=8 {word}</think>")


def test_checks_of_the_corpus_count_in_both_languages():
    assert self_checks("<think>\n3+5=8: +8=16 yes\ncheck (3+5)+8=16 low wait: -8=0 low\nso\n</think>") == [
        "check",
        "wait",
    ]
    assert self_checks("<think>\n3+5=8: +8=16对\n检查 (3+5)+8=16小等等: -8=0小\n那就\n</think>") == ["检查", "等等"]


def test_only_thinking_is_read():
    assert thinking_of("wait <think>a</think> wait <answer>check</answer>") == "a"
    assert not reflects("wait <think>a</think> wait <answer>check</answer>")
    assert not reflects("<answer>check</answer>")
    assert not reflects("let me check</think><answer>1</answer>")
    assert thinking_of("no tags") == ""


def test_thinking_that_was_cut_off_is_read_to_its_end():
    assert thinking_of("<think>a wait") == "a wait"
    assert reflects("<think>a wait")


def test_rate_is_the_share_of_responses_not_of_words():
    texts = ["<think>wait wait check</think>", "<think>so</think>", "<answer>wait</answer>", "<think>验算</think>"]
    assert reflection_rate(texts) == 0.5
    assert reflection_rate(iter(texts[:1])) == 1.0
    assert reflection_rate([]) == 0.0
