"""Where FP8 products enter Megatron's local modules: its linear layers, and experts of our own (V3 §3.3.1)."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from modeling import cpu
from modeling.experts import BatchedExperts
from modeling.fp8 import TILE, Product, Quantised, linear, quantise
from modeling.kernels import swiglu_backward, swiglu_forward

cpu.install()

from megatron.core.tensor_parallel import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


def use_fp8(model: nn.Module, product: Product) -> None:
    """Let the linear layers of decoder and MTP layers multiply in FP8; all else stays as it is.

    Done to the built modules: MLA takes none but Megatron's own classes for its down projections.
    """
    for name, module in model.named_modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear) and _in_fp8(name):
            module._forward_impl = functools.partial(_forward, product)


def _in_fp8(name: str) -> bool:
    return ".layers." in name and not name.endswith("eh_proj")


def _forward(
    product: Product,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: Any,
    **unused: Any,
) -> Tensor:
    """In the place of Megatron's product, which also is where it gathers rows and sums gradients over tensor ranks."""
    if sequence_parallel:
        input = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    elif allreduce_dgrad:
        input = copy_to_tensor_model_parallel_region(input, group=tp_group)
    out = linear(input, weight, product)
    return out if bias is None else out + bias


class Fp8Experts(BatchedExperts):
    """BatchedExperts with FP8 products: one quantisation for all experts, one product for each."""

    def __init__(self, *args: Any, product: Product, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.product = product

    def forward(self, hidden: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        """As in BatchedExperts: hidden [tokens, hidden] sorted by expert -> [tokens, hidden]."""
        counts = tokens_per_expert.tolist()
        return _Experts.apply(hidden, self.weight1, self.weight2, probs, counts, self.product), None


class _Runs:
    """Each expert's tokens in rows of their own, filled up with zeros to whole tiles, so that no tile is shared."""

    def __init__(self, counts: list[int], device: torch.device) -> None:
        sizes = [-(-count // TILE) * TILE for count in counts]
        self.rows = sum(sizes)
        self.experts: list[tuple[int, int, int]] = []
        "Number, first row and end of each expert that has tokens."
        places, start = [], 0
        for expert, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            if count:
                self.experts.append((expert, start, start + size))
                places.append(torch.arange(start, start + count, device=device))
            start += size
        self.places = torch.cat(places) if places else torch.arange(0, device=device)

    def spread(self, x: Tensor) -> Tensor:
        """x [tokens, ...] -> [rows, ...]."""
        return x.new_zeros(self.rows, *x.shape[1:]).index_copy_(0, self.places, x)

    def times(self, product: Product, x: Tensor, weights: Quantised) -> Tensor:
        """x [rows, in] times its expert's weight [out, in], transposed -> [rows, out]."""
        out = x.new_empty(self.rows, weights.shape[0])
        tiles = quantise(x, 1)
        for expert, start, stop in self.experts:
            out[start:stop] = product(tiles.rows(start, stop), weights[expert], x.dtype)
        return out

    def outer(self, product: Product, grad: Tensor, x: Tensor, like: Tensor) -> Tensor:
        """Wgrad: grad [rows, out], transposed, times x [rows, in], expert by expert -> like's [experts, out, in]."""
        out = torch.zeros_like(like)
        left, right = quantise(grad.t(), 1), quantise(x.t(), 1)
        for expert, start, stop in self.experts:
            out[expert] = product(left.columns(start, stop), right.columns(start, stop), like.dtype)
        return out


class _Experts(torch.autograd.Function):
    """SwiGLU of each expert over its tokens, times the token's gate value; the activation is not in FP8."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, w2: Tensor, probs: Tensor, counts: list[int], product: Product
    ) -> Tensor:
        runs = _Runs(counts, x.device)
        gate_up = runs.times(product, runs.spread(x), quantise(w1, TILE))
        inner = swiglu_forward(gate_up, runs.spread(probs.to(gate_up.dtype)))
        ctx.save_for_backward(x, w1, w2, probs, gate_up)
        ctx.runs, ctx.product = runs, product
        return runs.times(product, inner, quantise(w2, TILE))[runs.places]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        x, w1, w2, probs, gate_up = ctx.saved_tensors
        runs, product = ctx.runs, ctx.product
        grad = runs.spread(grad)

        d_inner = runs.times(product, grad, quantise(w2, TILE).mT)
        d_gate_up, d_factor, inner = swiglu_backward(gate_up, d_inner, runs.spread(probs.to(gate_up.dtype)))
        d_probs = d_factor[runs.places].to(probs.dtype)
        d_w2 = runs.outer(product, grad, inner, w2)
        d_x = runs.times(product, d_gate_up, quantise(w1, TILE).mT)[runs.places]
        return d_x, runs.outer(product, d_gate_up, runs.spread(x), w1), d_w2, d_probs, None, None
