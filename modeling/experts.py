"""Routed experts as two stacked tensors and one node of autograd, for CPU (V3 §2.1.2).

Megatron's SequentialMLP runs a module an expert; at the tiny scale its Python costs more than its arithmetic. Same
initial weights, outputs, gradients and sharded checkpoint keys as SequentialMLP (tests/modeling/test_experts.py).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modeling import cpu
from modeling.kernels import swiglu_backward, swiglu_forward

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
    """SwiGLU of each expert over its run of tokens, times the token's gate value.

    One expert after the other through both layers: its tokens are still in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor, probs: Tensor, counts: list[int]) -> Tensor:
        x, factor = x.contiguous(), probs.to(x.dtype)
        gate_up, out = x.new_empty(x.shape[0], w1.shape[1]), torch.empty_like(x)
        for e, run in _runs(counts):
            torch.mm(x[run], w1[e].t(), out=gate_up[run])
            torch.mm(swiglu_forward(gate_up[run], factor[run]), w2[e].t(), out=out[run])
        ctx.save_for_backward(x, w1, w2, probs, gate_up)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, w1, w2, probs, gate_up = ctx.saved_tensors
        grad, factor = grad.contiguous(), probs.to(x.dtype)
        dx, d_factor = torch.empty_like(x), torch.empty_like(factor)
        d_w1, d_w2 = torch.empty_like(w1), torch.empty_like(w2)
        for e, run in _runs(ctx.counts):
            d_inner = grad[run] @ w2[e]
            d_gate_up, d_factor[run], inner = swiglu_backward(gate_up[run], d_inner, factor[run])
            torch.mm(d_gate_up, w1[e], out=dx[run])
            torch.mm(d_gate_up.t(), x[run], out=d_w1[e])
            torch.mm(grad[run].t(), inner, out=d_w2[e])
        return dx, d_w1, d_w2, d_factor.to(probs.dtype), None


def _runs(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Each expert and its run of tokens, empty ones too: their weights' gradient is zero."""
    start = 0
    for expert, count in enumerate(counts):
        yield expert, slice(start, start + count)
        start += count
