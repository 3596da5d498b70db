"""Preference pairs: what is read, what is refused and how it is said, who trains what."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError, R1Error
from modeling.tokenizer import Tokenizer
from rl.preferences import Pair, PairOrder, pair_batches, read_pairs, split, tokenize

GOOD = [{"prompt": f"Make {i}.", "chosen": f"{i}+0", "rejected": f"{i}+1", "more": 1} for i in range(10)]
PAIRS = [Pair(row["prompt"], row["chosen"], row["rejected"]) for row in GOOD]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Make 1. 2+3"], 262)


def written(tmp_path, lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_jsonl_and_parquet_give_the_same_pairs(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "pairs.parquet")
    assert read_pairs(written(tmp_path, GOOD)) == read_pairs(tmp_path / "pairs.parquet") == PAIRS


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{\n", "line 11: no JSON"),
        ("[" * 100_000 + "\n", "line 11: no JSON"),
        ("[1]\n", "line 11: no JSON object"),
        ({"prompt": "a", "chosen": "b"}, "line 11: no text under rejected"),
        ({"prompt": "a", "chosen": ["b"], "rejected": "c"}, "line 11: no text under chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": "\ud800"}, "line 11: no text under rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 11: chosen and rejected are the same"),
    ],
)
def test_a_bad_row_is_named_and_left_out_only_where_that_is_allowed(tmp_path, capfd, bad, said):
    path = written(tmp_path, [*GOOD, bad])
    with pytest.raises(R1Error, match=f"1 of 11 rows cannot be used, the first {said}.*dpo.bad_share"):
        read_pairs(path)
    assert read_pairs(path, bad_share=0.1) == PAIRS
    assert said in "".join(capfd.readouterr())


@pytest.mark.parametrize("lines", [[], ["\n"], [{"prompt": "a"}]])
def test_an_empty_set_is_refused(tmp_path, lines):
    with pytest.raises(R1Error, match="holds no preference pair"):
        read_pairs(written(tmp_path, lines), bad_share=0.9)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="dpo.data=.*is not there"):
        read_pairs(tmp_path / "nowhere.jsonl")
    (tmp_path / "pairs.csv").write_text("a,b")
    with pytest.raises(ConfigError, match="neither .jsonl nor .parquet"):
        read_pairs(tmp_path / "pairs.csv")
    (tmp_path / "pairs.parquet").write_text("a,b")
    with pytest.raises(R1Error, match="no Parquet file"):
        read_pairs(tmp_path / "pairs.parquet")


def test_pairs_of_a_prompt_go_together_and_some_are_held_out():
    pairs = [Pair(f"question {i}", f"{j}", "no") for i in range(200) for j in range(2)]
    train, unseen = split(pairs, 0.2)
    assert len(train) + len(unseen) == 400 and 40 < len(unseen) < 120
    assert not {p.prompt for p in train} & {p.prompt for p in unseen}
    assert split(pairs, 0.0) == (pairs, [])
    with pytest.raises(R1Error, match="dpo.held_out=0.999"):
        split(pairs[:2], 0.999)


def test_responses_end_with_a_stop_token_and_long_pairs_are_left_out(tokenizer):
    (pair,) = tokenize([Pair("Make 3.", "1+2", "<answer>1</answer>")], tokenizer, 100)
    prompt = tokenizer.encode("Make 3.")
    assert pair.chosen.tokens == prompt + tokenizer.encode("1+2") + [tokenizer.eos_id]
    assert pair.rejected.tokens == prompt + tokenizer.encode("<answer>1</answer>")  # which ends an answer by itself
    assert pair.chosen.prompt_length == pair.rejected.prompt_length == len(prompt)
    two = [Pair("a", "b", "c"), Pair("a", "b" * 50, "c")]
    assert len(tokenize(two, tokenizer, 20)) == 1
    with pytest.raises(R1Error, match="all 1 preference pairs are longer"):
        tokenize(two[1:], tokenizer, 20)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_each_pair_comes_once_an_epoch_also_after_a_resume(number, count, steps, seed):
    order = PairOrder(number, seed)
    before = [index for _ in range(steps) for index in order.next(count)]
    resumed = PairOrder(number, seed)
    resumed.load_state_dict(order.state_dict())
    after = resumed.next(3 * number)
    assert after == order.next(3 * number)
    together = before + after
    for epoch in range(len(together) // number):
        assert sorted(together[epoch * number : (epoch + 1) * number]) == list(range(number))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_rows_come_in_pairs_and_every_pair_weighs_the_same(tokenizer, world):
    pairs = tokenize([Pair("p" * i, "c" * (3 * i), "r" * i) for i in range(1, 6)], tokenizer, 100)
    shares = [pair_batches(pairs, rank=r, world=world, max_tokens=60, pad_id=0) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for batch in (batch for share in shares for batch in share):
        if not batch.loss_weights.any():
            continue  # a rank without a pair
        weights = batch.loss_weights.sum(1)
        assert len(weights) % 2 == 0 and weights.tolist() == pytest.approx([0.1] * len(weights))
        lengths = (batch.loss_weights > 0).sum(1)
        seen += list(zip(lengths[0::2].tolist(), lengths[1::2].tolist(), strict=True))
    assert sorted(seen) == [(3 * i + 1, i + 1) for i in range(1, 6)]
