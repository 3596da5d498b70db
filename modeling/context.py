"""Rows that context ranks share: how one is cut, and how its parts come together again.

Megatron's cut: of 2n equal chunks of a row, rank r of n holds the r-th and the r-th from the end, so that under a
causal mask every rank has as much to attend to. Rank 0 of 2 holds places 0, 1, 6, 7 of a row of 8.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from modeling import cpu

cpu.install()

from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region  # noqa: E402
from megatron.core.utils import get_batch_on_this_cp_rank  # noqa: E402


def own_part(inputs: dict[str, Tensor | None], group: dist.ProcessGroup) -> dict[str, Tensor | None]:
    """This rank's part of tensors [batch, seq]; of attention_mask [batch, 1, seq, seq] it keeps its own queries.

    seq has to be a multiple of twice the group's size. None stays None.
    """
    return get_batch_on_this_cp_rank(dict(inputs), is_hybrid_cp=False, cp_group=group)


def own_places(seq: int, group: dist.ProcessGroup, device: torch.device) -> Tensor:
    """The places of a row of seq tokens that this rank holds, [seq / ranks]."""
    places = torch.arange(seq, device=device)[None]
    return own_part({"places": places}, group)["places"][0]


def whole_row(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All ranks' parts [seq / ranks, ...] in the order of the row, [seq, ...], on every rank; every rank calls it.

    Going back, a place has the sum of all ranks' gradients.
    """
    ranks = group.size()
    if ranks == 1:
        return part
    chunks = gather_from_sequence_parallel_region(part, group=group).unflatten(0, (2 * ranks, -1))
    # As gathered, they are 0, 2n-1, 1, 2n-2, ...
    order = [2 * c if c < ranks else 2 * (2 * ranks - 1 - c) + 1 for c in range(2 * ranks)]
    return torch.cat([chunks[i] for i in order])
