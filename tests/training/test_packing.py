"""Rows from documents: every label once, weights that sum to 1 over ranks, attention inside each document."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.packing import balanced_micro_batches, by_length_batches, count_labels, packed_batches

PAD = 0
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Token j of document i is 1000 (i + 1) + j: a token says where it comes from."""
    return [[1000 * (i + 1) + j for j in range(n)] for i, n in enumerate(lengths)]


def step_of(how: str, documents: list[list[int]], world: int, max_tokens: int, row_tokens: int = 48) -> list[list]:
    """[rank][micro-batch] of a step."""
    if how == "packed":
        return [
            packed_batches(documents, row_tokens=row_tokens, rank=r, world=world, max_tokens=max_tokens, pad_id=PAD)
            for r in range(world)
        ]
    return [by_length_batches(documents, rank=r, world=world, max_tokens=max_tokens, pad_id=PAD) for r in range(world)]


@settings(max_examples=100, deadline=None)
@given(
    how=st.sampled_from(("packed", "by_length")), lengths=LENGTHS, world=st.integers(1, 3), limit=st.integers(1, 200)
)
def test_every_label_is_there_once_and_weights_sum_to_one_over_ranks(how, lengths, world, limit):
    documents = documents_of(lengths)
    ranks = step_of(how, documents, world, limit)
    assert len({len(rank) for rank in ranks}) == 1  # collectives match
    pairs, total = [], 0.0
    for batch in (batch for rank in ranks for batch in rank):
        tokens, labels, weights = batch.tokens, batch.labels, batch.loss_weights
        assert tokens.shape == labels.shape == weights.shape and tokens.shape[0] >= 1 and tokens.shape[1] >= 2
        assert tokens.dtype == labels.dtype == torch.int64 and weights.dtype == torch.float32
        trained = weights > 0
        assert torch.equal(batch.padding, ~trained)  # every token but the last of each document has a label
        assert (tokens[~trained] == PAD).all() and (labels[~trained] == PAD).all() and (weights[~trained] == 0).all()
        assert len(set(weights[trained].tolist())) <= 1  # each place weighs the same
        pairs += zip(tokens[trained].tolist(), labels[trained].tolist(), strict=True)
        total += weights.double().sum().item()
    assert sorted(pairs) == [pair for d in documents for pair in zip(d[:-1], d[1:], strict=True)]
    assert count_labels(documents) == len(pairs)
    assert total == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, world=st.integers(1, 3), row_tokens=st.integers(1, 60))
def test_attention_in_packed_rows_is_causal_and_stays_inside_the_document(lengths, world, row_tokens):
    for rank in step_of("packed", documents_of(lengths), world, 200, row_tokens):
        for batch in rank:
            mask = batch.attention_mask()
            rows, seq = batch.tokens.shape
            assert mask.shape == (rows, 1, seq, seq)
            owners = torch.where(batch.loss_weights > 0, batch.tokens // 1000, -1).tolist()
            for owner, hidden in zip(owners, mask[:, 0].tolist(), strict=True):
                for i in range(seq):
                    assert hidden[i] == [j > i or owner[j] != owner[i] for j in range(seq)]


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, row_tokens=st.integers(1, 60))
def test_packed_rows_hold_whole_documents_and_leave_no_two_rows_that_fit_into_one(lengths, row_tokens):
    (rank,) = step_of("packed", documents_of(lengths), 1, 10**6, row_tokens)
    used = []
    for batch in rank:
        for tokens, trained in zip(batch.tokens.tolist(), (batch.loss_weights > 0).tolist(), strict=True):
            n = sum(trained)
            assert trained == [True] * n + [False] * (len(trained) - n)  # no gaps
            row = tokens[:n]
            starts = [at for at, token in enumerate(row) if token % 1000 == 0]
            assert n <= row_tokens or len(starts) == 1
            ends = [*starts[1:], n]
            for start, end in zip(starts, ends, strict=True):  # contiguous, whole, first token first
                number = row[start] // 1000
                assert row[start:end] == [1000 * number + j for j in range(lengths[number - 1] - 1)]
            used.append(n)
    assert all(a + b > row_tokens for a, b in combinations(used, 2))


def test_rows_of_one_document_need_no_mask():
    (rank,) = step_of("by_length", documents_of([5, 3, 9]), 1, 1000)
    assert all(batch.attention_mask() is None for batch in rank)


def test_documents_by_length_by_hand():
    (rank,) = step_of("by_length", [[11, 12], [21, 22, 23, 24]], 1, 1000)
    (batch,) = rank
    assert batch.tokens.tolist() == [[21, 22, 23], [11, 0, 0]]
    assert batch.labels.tolist() == [[22, 23, 24], [12, 0, 0]]
    assert batch.loss_weights.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]


def test_packing_by_hand():
    """Places 4, 3, 2, 1 in rows of 5: the longest takes the shortest in, as first fit has it."""
    documents = [[10, 11, 12], [20, 21, 22, 23, 24], [30, 31], [40, 41, 42, 43]]
    ((batch,),) = step_of("packed", documents, 1, 1000, row_tokens=5)
    assert batch.tokens.tolist() == [[20, 21, 22, 23, 30], [40, 41, 42, 10, 11]]
    assert batch.labels.tolist() == [[21, 22, 23, 24, 31], [41, 42, 43, 11, 12]]
    assert batch.document_ids.tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert batch.loss_weights.flatten().tolist() == pytest.approx([0.1] * 10)


def test_padding_of_a_packed_row_belongs_to_no_document():
    ((batch,),) = step_of("packed", [[10, 11, 12]], 1, 1000, row_tokens=4)
    assert batch.document_ids.tolist() == [[0, 0, -1, -1]]
    visible = ~batch.attention_mask()[0, 0]
    assert visible.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_a_rank_without_rows_gets_one_of_weight_zero():
    ranks = step_of("by_length", [[10, 11, 12]], 3, 1000)
    assert [len(rank) for rank in ranks] == [1, 1, 1]
    assert [rank[0].loss_weights.tolist() for rank in ranks] == [[[0.5, 0.5]], [[0.0, 0.0]], [[0.0, 0.0]]]


def test_dealing_by_hand():
    assert balanced_micro_batches([3, 9, 9, 3], 2, 9, overhead=0) == [[[1], [0]], [[2], [3]]]
    # One cut of 7 * 3 padded places would cost 21 + 4; two cost 7 + 4 + 2 * 1 + 4.
    assert balanced_micro_batches([1, 7, 1], 1, 100, overhead=4) == [[[1], [0, 2]]]
    assert balanced_micro_batches([1, 7, 1], 1, 100, overhead=20) == [[[1, 0, 2]]]
    assert balanced_micro_batches([], 2, 9) == [[], []]


def cost(lengths: list[int], runs: list[list[int]], world: int, overhead: int) -> int:
    return sum(-(-len(run) // world) * max(lengths[i] for i in run) + overhead for run in runs)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    world=st.integers(1, 3),
    limit=st.integers(1, 80),
    overhead=st.integers(0, 40),
)
def test_rows_are_dealt_once_evenly_and_at_the_least_cost_of_all_cuts(lengths, world, limit, overhead):
    ranks = balanced_micro_batches(lengths, world, limit, overhead=overhead)
    assert sorted(i for rank in ranks for part in rank for i in part) == list(range(len(lengths)))
    runs = []
    for parts in zip(*ranks, strict=True):
        counts = [len(part) for part in parts]
        assert max(counts) - min(counts) <= 1
        runs.append([i for part in parts for i in part])
        assert max(counts) == 1 or max(counts) * max(lengths[i] for i in runs[-1]) <= limit

    falling = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = None
    for size in range(len(lengths)):
        for inner in combinations(range(1, len(lengths)), size):
            ends = [0, *inner, len(lengths)]
            cut = [falling[a:b] for a, b in zip(ends, ends[1:], strict=False)]
            if all(len(r) <= world or -(-len(r) // world) * lengths[r[0]] <= limit for r in cut):
                this = cost(lengths, cut, world, overhead)
                best = this if best is None else min(best, this)
    assert cost(lengths, runs, world, overhead) == best
