"""Context ranks: the cut of a row, its parts together again, and what goes back through that."""

import torch
import torch.nn.functional as F

from modeling import cpu
from modeling.context import own_part, own_places, whole_row
from tests import gloo
from training import parallel
from training.config import ParallelConfig

cpu.install()

from megatron.core import parallel_state  # noqa: E402

SEQ = 12


def _row() -> torch.Tensor:
    return torch.randn(SEQ, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _group(ranks: int):
    parallel.init(ParallelConfig(context=ranks), 0)
    return parallel_state.get_context_parallel_group()


def _cut_and_joined(ranks: int) -> dict:
    """Each rank weighs the whole row by a number of its own; what comes back to its part is the sum of all."""
    group = _group(ranks)
    part = own_part({"row": _row()[None], "none": None}, group)["row"][0].requires_grad_()
    whole = whole_row(part, group)
    (whole.sin() * (group.rank() + 1)).sum().backward()
    return {"places": own_places(SEQ, group, part.device), "whole": whole.detach(), "grad": part.grad}


def test_a_row_is_cut_into_chunks_from_both_ends_and_comes_together_with_its_gradient():
    row = _row()
    for ranks, held in {
        2: [[0, 1, 2, 9, 10, 11], [3, 4, 5, 6, 7, 8]],
        3: [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]],
    }.items():
        for got, places in zip(gloo.run(_cut_and_joined, ranks, ranks=ranks), held, strict=True):
            assert got["places"].tolist() == places
            assert torch.equal(got["whole"], row)
            torch.testing.assert_close(got["grad"], row[places].cos() * sum(range(1, ranks + 1)))


def _attended(shared: int, documents: bool) -> tuple:
    from modeling.attention import CoreAttention

    group = _group(2)

    class Groups:
        cp = group

    inputs = [t.requires_grad_() for t in _inputs(shared)]
    query, key, value = (t[own_places(SEQ, group, t.device)] for t in inputs)
    mask = own_part({"attention_mask": _mask()}, group)["attention_mask"] if documents else None
    out = CoreAttention(None, 0.3, pg_collection=Groups)(query, key, value, mask)
    whole = whole_row(out, group)
    (whole.sin().sum() / 2).backward()  # both ranks have the whole of it
    return whole.detach(), [t.grad for t in inputs]


def _inputs(shared: int) -> list[torch.Tensor]:
    """query, key, value [seq, batch, heads, d]; the value is narrower."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 6), (4 // shared, 6), (4 // shared, 5))
    return [torch.randn(SEQ, 2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _mask() -> torch.Tensor:
    """Documents of different lengths in the two rows."""
    ids = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * 1 + [1] * 11])
    later = torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
    return (later | (ids[:, :, None] != ids[:, None, :]))[:, None]


def test_attention_over_context_ranks_is_softmax_attention_over_the_row():
    for shared, documents in ((1, False), (2, True)):
        inputs = [t.requires_grad_() for t in _inputs(shared)]
        q, k, v = (t.permute(1, 2, 0, 3) for t in inputs)
        k, v = (t.repeat_interleave(shared, 1) for t in (k, v))
        hidden = _mask() if documents else torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
        scores = (0.3 * q @ k.mT).masked_fill(hidden, float("-inf"))
        expected = (F.softmax(scores, -1) @ v).permute(2, 0, 1, 3).flatten(2)
        expected.sin().sum().backward()
        ranks = gloo.run(_attended, shared, documents)
        for whole, _ in ranks:
            torch.testing.assert_close(whole, expected.detach())
        for i, given in enumerate(inputs):  # each rank has the gradient of its own part
            torch.testing.assert_close(ranks[0][1][i] + ranks[1][1][i], given.grad)
