"""From documents to micro-batches: rows, labels and weights, and which rank trains which rows.

A document of n tokens (its <eos> included) gives n - 1 places: inputs are all tokens but the last, labels all but the
first. Each place of a step weighs the same, 1 / (places of the step over all ranks), however rows are made or dealt.
Where a document begins with a prompt, labels inside the prompt weigh nothing and do not count.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from training.step import MicroBatch

MICRO_BATCH_OVERHEAD = 256
"What a micro-batch costs besides its tokens, counted in tokens: the price of cutting rows finer to pad less."


def balanced_micro_batches(
    lengths: Sequence[int], world: int, max_tokens: int, *, overhead: int = MICRO_BATCH_OVERHEAD
) -> list[list[list[int]]]:
    """Deal rows to ranks: -> [rank][micro-batch] -> indices of rows, longest first.

    Rows are sorted by length and cut into runs of like length, at the least sum of padded tokens and overhead; each run
    is dealt over the ranks and becomes one micro-batch on each. So every rank has the same number of micro-batches, of
    like shapes, and differs from the others by at most a row in each. A micro-batch holds at most max_tokens padded
    tokens (a row longer than that stands alone). With fewer rows than ranks in a run, some ranks get an empty list.

    balanced_micro_batches([3, 9, 9, 3], world=2, max_tokens=9, overhead=0) is [[[1], [0]], [[2], [3]]].
    """
    if len(lengths) == 0:
        return [[] for _ in range(world)]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # stable: the same on every rank
    ends = _cut([lengths[i] for i in order], world, max_tokens, overhead)
    shares: list[list[list[int]]] = [[] for _ in range(world)]
    load = [0] * world
    for start, end in zip([0, *ends], ends, strict=False):
        run: list[list[int]] = [[] for _ in range(world)]
        for index in order[start:end]:
            rank = min(range(world), key=lambda r: (len(run[r]), load[r], r))
            run[rank].append(index)
            load[rank] += lengths[index]
        for rank in range(world):
            shares[rank].append(run[rank])
    return shares


def _cut(lengths: list[int], world: int, max_tokens: int, overhead: int) -> list[int]:
    """Ends of the runs that lengths (falling) are cut into, at the least cost; by dynamic programming."""
    n = len(lengths)
    if lengths[0] == lengths[-1]:  # thousands of joined rows: no choice to weigh
        rows = world * max(1, max_tokens // max(1, lengths[0]))
        return [*range(rows, n, rows), n]
    sizes = np.array(lengths)
    best = np.zeros(n + 1)  # best[i]: least cost of the rows from i on
    end_of = np.zeros(n, dtype=int)
    for start in range(n - 1, -1, -1):
        rows = -(-np.arange(1, n - start + 1) // world)  # rows on the fullest rank, for each possible end
        padded = rows * sizes[start]
        cost = padded + overhead + best[start + 1 :]
        cost[(padded > max_tokens) & (rows > 1)] = np.inf
        choice = int(np.argmin(cost))
        best[start], end_of[start] = cost[choice], start + choice + 1
    ends, at = [], 0
    while at < n:
        at = int(end_of[at])
        ends.append(at)
    return ends


def by_length_batches(
    documents: Sequence[Sequence[int]],
    *,
    rank: int,
    world: int,
    max_tokens: int,
    pad_id: int,
    prompts: Sequence[int] | None = None,
    images: "Sequence[np.ndarray | None] | None" = None,
) -> "list[MicroBatch]":
    """One document a row, rows of like length together; this rank's micro-batches of the step.

    documents: token ids of all documents of the step, the same on every rank. Positions count from 0 in each row.
    prompts: how many tokens at the start of each are read and not learnt; None: the first, which nothing predicts.
    images: of each document, uint8 [height, width], None where it has none.
    """
    weight = 1.0 / count_labels(documents, prompts)
    pairs = list(zip(documents, prompts or [1] * len(documents), strict=True))
    shares = balanced_micro_batches([len(d) - 1 for d in documents], world, max_tokens)
    batches = [_rows([[pairs[i]] for i in indices], weight, pad_id) for indices in shares[rank]]
    for batch, indices in zip(batches, shares[rank], strict=True) if images is not None else ():
        batch.images, batch.image_rows = stacked([images[i] for i in indices])
    return batches


def stacked(images: "Sequence[np.ndarray | None]") -> "tuple[Tensor, Tensor] | tuple[None, None]":
    """(those that are there, uint8 [images, height, width]; the row of each, int64 [images]); None where none is."""
    import torch

    rows = [row for row, image in enumerate(images) if image is not None]
    return (torch.from_numpy(np.stack([images[row] for row in rows])), torch.tensor(rows)) if rows else (None, None)


def joined_batches(
    rows: Sequence[Sequence[int]], *, row_tokens: int, rank: int, world: int, max_tokens: int, pad_id: int
) -> "list[MicroBatch]":
    """Rows of row_tokens + 1 ids, documents end to end; only this rank's are read."""
    weight = 1.0 / (len(rows) * row_tokens)
    shares = balanced_micro_batches([row_tokens] * len(rows), world, max_tokens)
    return [_rows([[(rows[i], 1)] for i in indices], weight, pad_id) for indices in shares[rank]]


def packed_batches(
    documents: Sequence[Sequence[int]],
    *,
    row_tokens: int,
    rank: int,
    world: int,
    max_tokens: int,
    pad_id: int,
    prompts: Sequence[int] | None = None,
) -> "list[MicroBatch]":
    """Several documents a row of row_tokens tokens, with document_ids, so that attention stays inside each.

    Documents are placed longest first, each into the first row with room (first-fit decreasing); none is cut. One
    longer than a row gets a row of its own. Positions count from the start of the row: rotary positions are relative,
    so that is the same to attention inside a document.
    """
    weight = 1.0 / count_labels(documents, prompts)
    pairs = zip(documents, prompts or [1] * len(documents), strict=True)
    rows: list[list[tuple[Sequence[int], int]]] = []
    room: list[int] = []
    for document, prompt in sorted(pairs, key=lambda pair: -len(pair[0])):
        places = len(document) - 1
        at = next((i for i, free in enumerate(room) if free >= places), None)
        if at is None:
            rows.append([])
            room.append(row_tokens)
            at = len(rows) - 1
        rows[at].append((document, prompt))
        room[at] -= places
    lengths = [sum(len(d) - 1 for d, _ in row) for row in rows]
    shares = balanced_micro_batches([max(length, row_tokens) for length in lengths], world, max_tokens)
    return [
        _rows([rows[i] for i in indices], weight, pad_id, width=row_tokens, packed=True) for indices in shares[rank]
    ]


def count_labels(documents: Sequence[Sequence[int]], prompts: Sequence[int] | None = None) -> int:
    """Labels of these documents behind their prompts: what a step's weights are divided by."""
    return sum(map(len, documents)) - (len(documents) if prompts is None else sum(prompts))


def _rows(
    rows: list[list[tuple[Sequence[int], int]]], weight: float, pad_id: int, *, width: int = 2, packed: bool = False
) -> "MicroBatch":
    """Rows of (document, prompt) as tensors [batch, seq], seq at least `width`; no rows give one of padding, weight 0.

    Padding has document id -1, so that it sees itself and nothing else.
    """
    import torch

    from training.step import MicroBatch

    width = max([width] + [sum(len(d) - 1 for d, _ in row) for row in rows])
    shape = (max(len(rows), 1), width)
    tokens, labels = np.full(shape, pad_id, dtype=np.int64), np.full(shape, pad_id, dtype=np.int64)
    weights, ids = np.zeros(shape, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
    padding = np.ones(shape, dtype=bool)
    for i, row in enumerate(rows):
        at = 0
        for number, (document, prompt) in enumerate(row):
            place = slice(at, at + len(document) - 1)
            tokens[i, place], labels[i, place] = document[:-1], document[1:]
            weights[i, at + prompt - 1 : place.stop] = weight  # the label of place j is token j + 1
            ids[i, place], padding[i, place] = number, False
            at = place.stop
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        loss_weights=torch.from_numpy(weights),
        padding=torch.from_numpy(padding),
        document_ids=torch.from_numpy(ids) if packed else None,
    )
