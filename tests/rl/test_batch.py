"""Rows, weights and micro-batches: what is trained, how much it weighs, and that ranks cannot change it."""

import numpy as np
import pytest
import torch

from rl.batch import LossWeighting, Row, collate, keep_trainer_logprobs, minibatches, row_weights, rows_of
from rl.types import Completion, Group, Question


def rows(*lengths):
    return [Row([7, 8] + list(range(10, 10 + n)), 2, [-0.5] * n, float(i)) for i, n in enumerate(lengths)]


def test_weights_by_hand():
    assert row_weights(rows(1, 3), LossWeighting.per_answer) == pytest.approx([1 / 2, 1 / 6])
    assert row_weights(rows(1, 3), LossWeighting.token_mean) == pytest.approx([1 / 4, 1 / 4])


def test_only_response_labels_carry_weight():
    batch = collate(rows(2, 1), [0.25, 0.5], pad_id=0)
    assert batch.tokens.tolist() == [[7, 8, 10], [7, 8, 0]]
    assert batch.labels.tolist() == [[8, 10, 11], [8, 10, 0]]
    assert batch.loss_weights.tolist() == [[0.0, 0.25, 0.25], [0.0, 0.5, 0.0]]
    assert batch.padding.tolist() == [[False, False, False], [False, False, True]]  # the prompt is load
    assert batch.extras["advantages"].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert batch.extras["sampler_logprobs"].tolist() == [[0.0, -0.5, -0.5], [0.0, -0.5, 0.0]]


def test_of_an_answer_in_parts_the_last_segment_alone_carries_weight():
    parts = Completion([10, 11, 12, 13], "", [-0.1, -0.2, -0.3, -0.4], [], True, segments=[(3, 1), (5, 3)])
    parts.advantage, other = 2.0, Completion([20], "", [-0.5], [], True, advantage=-2.0)
    groups = [Group(Question("q", "t", "", ""), [parts, other])]
    of_all = rows_of(groups, [[7, 8]], drop_zero_variance=True)
    of_last = rows_of(groups, [[7, 8]], drop_zero_variance=True, last_segment=True)
    assert row_weights(of_all, LossWeighting.per_answer) == pytest.approx([1 / 8, 1 / 2])
    weights = row_weights(of_last, LossWeighting.per_answer)
    assert weights == pytest.approx([1 / 6, 1 / 2])
    assert row_weights(of_last, LossWeighting.token_mean) == pytest.approx([1 / 4, 1 / 4])
    batch = collate(of_last, weights, pad_id=0)
    assert batch.labels.tolist() == [[8, 10, 11, 12, 13], [8, 20, 0, 0, 0]]
    torch.testing.assert_close(batch.loss_weights, torch.tensor([[0, 0, 1, 1, 1], [0, 3, 0, 0, 0]]) / 6)
    torch.testing.assert_close(batch.extras["sampler_logprobs"][0], torch.tensor([0, -0.1, -0.2, -0.3, -0.4]))
    assert float(batch.loss_weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("weighting", LossWeighting)
def test_weights_of_a_minibatch_sum_to_one_over_ranks_and_every_row_is_there_once(world, weighting):
    data = rows(*np.random.default_rng(0).integers(1, 40, size=23).tolist())
    parts = [
        minibatches(
            data, 2, weighting=weighting, rng=np.random.default_rng(1), rank=r, world=world, max_tokens=96, pad_id=0
        )
        for r in range(world)
    ]
    seen = []
    for index in range(2):
        batches = [b for part in parts for b in part[index]]
        assert sum(b.loss_weights.double().sum() for b in batches).item() == pytest.approx(1.0, abs=1e-6)
        assert len({len(part[index]) for part in parts}) == 1  # collectives match
        for b in batches:
            mask = b.loss_weights > 0
            seen += [v for v, m in zip(b.extras["advantages"].amax(1).tolist(), mask.any(1).tolist(), strict=True) if m]
    assert sorted(seen) == [float(i) for i in range(23)]


def test_more_ranks_than_rows_still_match():
    parts = [
        minibatches(
            rows(3),
            1,
            weighting=LossWeighting.per_answer,
            rng=np.random.default_rng(0),
            rank=r,
            world=2,
            max_tokens=96,
            pad_id=0,
        )
        for r in range(2)
    ]
    assert [len(p[0]) for p in parts] == [1, 1]
    assert sum(p[0][0].loss_weights.sum() for p in parts) == torch.tensor(1.0)
    assert [p[0][0].padding.all().item() for p in parts] == [False, True]


def test_each_answer_gets_the_trainers_logprobs_of_its_own_tokens_whatever_batch_it_was_in():
    groups = [
        Group(Question(f"q{i}", "t", "", ""), [Completion([i] * n, "", [0.0] * n, [], True) for n in (1, 3)])
        for i in (1, 2)
    ]
    groups[0].completions[0].advantage = groups[1].completions[1].advantage = 1.0
    some = rows_of(groups, [[7, 8], [7, 8, 9]], drop_zero_variance=True)
    shares = minibatches(
        some,
        2,
        weighting=LossWeighting.per_answer,
        rng=np.random.default_rng(3),
        rank=0,
        world=1,
        max_tokens=8,
        pad_id=0,
    )
    batches = [batch for minibatch in shares for batch in minibatch]
    # A stand-in that tells label and place: 100 * label + place.
    logprobs = [100.0 * b.labels + torch.arange(b.labels.shape[1]) for b in batches]
    keep_trainer_logprobs(some, batches, logprobs)
    assert [c.trainer_logprobs for g in groups for c in g.completions] == [
        [101.0],
        [101.0, 102.0, 103.0],
        [202.0],
        [202.0, 203.0, 204.0],
    ]
