"""Preference pairs: broken files are refused by file and line; prompts are never on both sides of the split."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from rl.rewards.format import summary_of
from training.data.pairs import Pair, read_pairs, split_pairs, write_pairs
from training.data.preferences import Preference, made_pairs, number_words

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_both_formats_come_back(tmp_path):
    pairs = [Pair("问", "好\n", "坏"), Pair("p", "a", "b")]
    path = write_pairs(tmp_path / "a" / "pairs.jsonl", pairs, [{"principle": "x"}, {}])
    assert read_pairs(path) == pairs
    pd.DataFrame([vars_of(pair) for pair in pairs]).to_parquet(tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet") == pairs


def vars_of(pair: Pair) -> dict[str, str]:
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "is no JSON"),
        ("[1]", "is no object"),
        ("[" * 100_000, "is no JSON"),
        (json.dumps({**GOOD, "rejected": None}), "has no text under rejected"),
        (json.dumps({"prompt": "p", "chosen": "a"}), "has no text under rejected"),
        (json.dumps({**GOOD, "prompt": " "}), "has an empty prompt"),
        (json.dumps({**GOOD, "rejected": "a"}), "the same answer twice"),
        (json.dumps({**GOOD, "id": "7"}), r"has the id of pairs.jsonl:1 \(7\)"),
        (json.dumps({**GOOD, "chosen": [{"role": "assistant", "content": "a"}]}), "has no text under chosen"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line_counted_and_refused_over_the_share(tmp_path, capsys, line, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps({**GOOD, 'id': 7})}\n\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(ConfigError, match=said) as raised:
        read_pairs(path, "reward_model.pairs", max_bad=0.3)
    assert str(raised.value).startswith(f"reward_model.pairs={path}: 1 of 3 rows cannot be used: pairs.jsonl:3: ")
    assert str(raised.value).endswith("set reward_model.max_bad=0.33")
    assert read_pairs(path, max_bad=0.34) == [Pair("p", "a", "b")] * 2
    assert "1 of 3 rows are left out: pairs.jsonl:3: " in capsys.readouterr().err


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ConfigError, match="pairs.jsonl:1"):
        read_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read_pairs(tmp_path / "pairs.parquet")


def test_an_empty_or_missing_set_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match="has no rows"):
        read_pairs(tmp_path / "empty.jsonl")
    pd.DataFrame({"prompt": [], "chosen": [], "rejected": []}).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ConfigError, match="has no rows"):
        read_pairs(tmp_path / "empty.parquet")
    with pytest.raises(ConfigError, match="none is held out|none is to train on"):
        split_pairs([Pair("p", "a", "b")], 0.5)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(max_size=8), min_size=60, max_size=120), st.floats(0.2, 0.8))
def test_no_prompt_is_on_both_sides_and_the_share_is_about_kept(prompts, share):
    pairs = [Pair(prompt, answer, "x") for prompt in prompts for answer in "ab"]
    train, held_out = split_pairs(pairs, share)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert len(train) + len(held_out) == len(pairs)
    assert abs(len(held_out) / len(pairs) - share) < 0.35
    assert split_pairs(pairs[::-1], share)[0] == train[::-1]


@pytest.mark.parametrize(
    "n, words",
    [
        (0, ("zero", "零")),
        (10, ("ten", "十")),
        (13, ("thirteen", "十三")),
        (20, ("twenty", "二十")),
        (42, ("forty-two", "四十二")),
        (99, ("ninety-nine", "九十九")),
    ],
)
def test_number_words_by_hand(n, words):
    assert number_words(n) == words


@pytest.mark.parametrize("kind", Preference)
def test_made_pairs_differ_in_what_their_model_reads_and_repeat(kind):
    pairs = made_pairs(kind, 500, seed=1)
    assert pairs == made_pairs(kind, 500, seed=1) != made_pairs(kind, 500, seed=2)
    assert len({pair.prompt for pair in pairs}) > 100
    read = summary_of if kind is Preference.helpful else str
    assert all(read(pair.chosen) != read(pair.rejected) for pair in pairs)


def test_some_harm_shows_in_the_thinking_alone():
    pairs = made_pairs(Preference.harmless, 500, seed=1)
    same = [pair for pair in pairs if summary_of(pair.chosen) == summary_of(pair.rejected)]
    assert 100 < len(same) < 300
