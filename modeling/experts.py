"""Routed experts as two stacked tensors and one node of autograd, for CPU (V3 §2.1.2).

Megatron's SequentialMLP runs a module an expert; at the tiny scale its Python costs more than its arithmetic. Same
initial weights, outputs, gradients and sharded checkpoint keys as SequentialMLP (tests/modeling/test_experts.py).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import cpu
from modeling.kernels import grouped_mm, swiglu_backward

cpu.install()

from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402
from megatron.core.tensor_parallel.random import (  # noqa: E402
    get_cuda_rng_tracker,
    get_expert_parallel_rng_tracker_name,
)
from megatron.core.transformer.module import MegatronModule  # noqa: E402


class BatchedExperts(MegatronModule):
    """In the place of SequentialMLP in the layer spec.

    weight1 [experts, 2 * inner, hidden], rows [gate; up]; weight2 [experts, hidden, inner]: this rank's experts.
    """

    def __init__(
        self, num_local_experts: int, config: Any, pg_collection: Any = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(config=config)
        self.num_local_experts = num_local_experts
        self.ep_group, self.dp_group = pg_collection.ep, pg_collection.expt_dp
        hidden, inner = config.hidden_size, config.moe_ffn_hidden_size
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        empty = dict(dtype=config.params_dtype, device=device)
        self.weight1 = nn.Parameter(torch.empty(num_local_experts, 2 * inner, hidden, **empty))
        self.weight2 = nn.Parameter(torch.empty(num_local_experts, hidden, inner, **empty))
        with torch.no_grad(), get_cuda_rng_tracker().fork(get_expert_parallel_rng_tracker_name()):
            for first, second in zip(self.weight1, self.weight2, strict=True):
                config.init_method(first)
                config.output_layer_init_method(second)

    def forward(self, hidden: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        """hidden [tokens, hidden] sorted by expert, tokens_per_expert [experts], probs [tokens] -> [tokens, hidden]."""
        counts = tokens_per_expert.tolist()
        return _Experts.apply(hidden, self.weight1, self.weight2, probs, counts), None

    def backward_dw(self) -> None:
        """Megatron's delayed weight gradients: there are none here."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, ShardedTensor]:
        """The keys and global shapes of SequentialMLP, so that either loads what the other saved."""
        axes = len(sharded_offsets)
        offsets = (*sharded_offsets, (axes, self.ep_group.rank(), self.ep_group.size()))
        return {
            f"{prefix}{name}": ShardedTensor.from_rank_offsets(
                f"{prefix}experts.{key}.weight",
                getattr(self, name),
                *offsets,
                replica_id=(0, 0, self.dp_group.rank()),
                prepend_axis_num=axes,
            )
            for name, key in (("weight1", "linear_fc1"), ("weight2", "linear_fc2"))
        }


class _Experts(torch.autograd.Function):
    """SwiGLU of each expert over its run of tokens, times the token's gate value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor, probs: Tensor, counts: list[int]) -> Tensor:
        gate_up = grouped_mm(x, w1.mT, counts)
        gate, up = gate_up.chunk(2, -1)
        out = grouped_mm(F.silu(gate).mul_(up).mul_(probs.unsqueeze(-1)), w2.mT, counts)
        ctx.save_for_backward(x, w1, w2, probs, gate_up)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, w1, w2, probs, gate_up = ctx.saved_tensors
        counts, scale = ctx.counts, probs.unsqueeze(-1)
        gate, up = gate_up.chunk(2, -1)
        silu = F.silu(gate)
        inner = silu * up

        d_inner = grouped_mm(grad, w2, counts)
        d_probs = torch.linalg.vecdot(d_inner, inner).to(probs.dtype)
        d_w2 = _outer(grad, inner.mul_(scale), counts)
        d_gate_up = swiglu_backward(gate_up, silu, d_inner.mul_(scale))
        return grouped_mm(d_gate_up, w1, counts), _outer(d_gate_up, x, counts), d_w2, d_probs, None


def _outer(left: Tensor, right: Tensor, counts: list[int]) -> Tensor:
    """Run e of left [tokens, a], transposed, times run e of right [tokens, b] -> [experts, a, b]."""
    out = left.new_empty(len(counts), left.shape[1], right.shape[1])
    for a, b, result in zip(left.split(counts), right.split(counts), out, strict=True):
        torch.mm(a.t(), b, out=result)
    return out
