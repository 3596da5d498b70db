"""Preference pairs as DPO trains on them: their ends, their order, who trains which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import CheckpointError, R1Error
from modeling.tokenizer import Tokenizer
from rl.batch import Row
from rl.preferences import PairOrder, TokenPair, pair_batches, tokenize
from training.data.pairs import Pair


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Make 1. 2+3"], 262)


def test_responses_end_with_a_stop_token_and_long_pairs_are_left_out(tokenizer):
    (pair,) = tokenize([Pair("Make 3.", "1+2", "<answer>1</answer>")], tokenizer, 100)
    prompt = tokenizer.encode("Make 3.")
    assert pair.chosen.tokens == prompt + tokenizer.encode("1+2") + [tokenizer.eos_id]
    assert pair.rejected.tokens == prompt + tokenizer.encode("<answer>1</answer>")  # which ends an answer by itself
    assert pair.chosen.prompt_length == pair.rejected.prompt_length == len(prompt)
    assert tokenize([Pair("a", "\ud800", "c")], tokenizer, 100)  # a lone surrogate is no text
    two = [Pair("a", "b", "c"), Pair("a", "b" * 50, "c")]
    assert len(tokenize(two, tokenizer, 20)) == 1
    with pytest.raises(R1Error, match="all 1 preference pairs are longer"):
        tokenize(two[1:], tokenizer, 20)


def made(number):
    return [TokenPair(Row([i, 1], 1, [0.0], 0.0), Row([i, 2], 1, [0.0], 0.0)) for i in range(number)]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_each_pair_comes_once_an_epoch_also_after_a_resume(number, count, steps, seed):
    order = PairOrder(made(number), seed)
    before = [pair for _ in range(steps) for pair in order.next(count)]
    resumed = PairOrder(made(number), seed)
    resumed.load_state_dict(order.state_dict())
    after = resumed.next(3 * number)
    assert after == order.next(3 * number)
    together = [pair.chosen.tokens[0] for pair in before + after]
    for epoch in range(len(together) // number):
        assert sorted(together[epoch * number : (epoch + 1) * number]) == list(range(number))


def test_a_run_does_not_go_on_with_other_pairs():
    with pytest.raises(CheckpointError, match="other pairs.*dpo.data"):
        PairOrder(made(4), 0).load_state_dict(PairOrder(made(5), 0).state_dict())


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
