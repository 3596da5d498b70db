"""What runs as one kernel on GPU, as one node of autograd on CPU: RMSNorm, SwiGLU, cross-entropy, MLA's rotations.

Written out in torch operations they are a third of a tiny model's step: many passes over small tensors, each with a
backward of its own. cpu.py gives them to Megatron in the place of its fused ones.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; FP32."""
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        # y = w x s with s = 1 / rms: dw = sum of s (x g), dx = s (w g) - x s^3 mean(w (x g))
        both = (x * grad).flatten(0, -2)
        d_weight = scale.flatten() @ both
        inside = (both @ weight).view_as(scale).mul_(scale.pow(3)).div_(x.shape[-1])
        return (grad * weight).mul_(scale).addcmul_(x, inside, value=-1), d_weight, None


def swiglu(gate_up: Tensor, bias: None = None, *unused: Any) -> Tensor:
    """silu(gate) * up of gate_up [..., gate; up]; Megatron's bias_swiglu_impl without a bias."""
    return _SwiGLU.apply(gate_up)


def swiglu_backward(gate_up: Tensor, silu: Tensor, grad: Tensor) -> Tensor:
    """Gradient of gate_up, given silu(gate) and the gradient of silu(gate) * up."""
    gate, up = gate_up.chunk(2, -1)
    out = torch.empty_like(gate_up)
    d_gate, d_up = out.chunk(2, -1)
    torch.mul(grad, silu, out=d_up)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=d_gate)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return swiglu_backward(gate_up, F.silu(gate_up.chunk(2, -1)[0]), grad)


def grouped_mm(x: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
    """Run e of x [tokens, a], counts[e] long, times weights[e] [a, b] -> [tokens, b]. Not differentiable by itself."""
    out = x.new_empty(x.shape[0], weights.shape[-1])
    for run, weight, result in zip(x.split(counts), weights, out.split(counts), strict=True):
        torch.mm(run, weight, out=result)
    return out


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target): logits [seq, batch, vocab], target [seq, batch] -> [seq, batch], FP32."""
    loss = F.cross_entropy(logits.float().flatten(0, -2), target.flatten(), reduction="none")
    return loss.view_as(target)


def _rotate(pairs: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Interleaved pairs [..., d] into halves [..., d], turned by the angle of their position."""
    half = out.shape[-1] // 2
    a, b = pairs[..., 0::2], pairs[..., 1::2]
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)


def _rotate_back(halves: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """The transpose of _rotate: gradient of the halves into that of the pairs."""
    half = halves.shape[-1] // 2
    a, b = halves[..., :half], halves[..., half:]
    out[..., 0::2] = (a * cos).addcmul_(b, sin)
    out[..., 1::2] = (b * cos).addcmul_(a, sin, value=-1)


def mla_rope_q(
    q: Tensor, cos: Tensor, sin: Tensor, qk_head_dim: int, emb_dim: int, *unused: Any, **kwargs: Any
) -> Tensor:
    """q [seq, batch, heads, qk_head_dim + emb_dim] with its last emb_dim turned; cos, sin [>= seq, 1, 1, emb_dim]."""
    return _RopeQ.apply(q, *_half(q, cos, sin, emb_dim), qk_head_dim)


def mla_rope_kv(
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    emb_dim: int,
    k_dim: int,
    v_dim: int,
    *unused: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """kv [seq, batch, heads, k_dim + v_dim], k_rope [seq, batch, 1, emb_dim], shared by the heads.

    -> key [seq, batch, heads, k_dim + emb_dim], value [seq, batch, heads, v_dim].
    """
    return _RopeKV.apply(kv, k_rope, *_half(kv, cos, sin, emb_dim), k_dim)


def _half(x: Tensor, cos: Tensor, sin: Tensor, emb_dim: int) -> tuple[Tensor, Tensor]:
    """Tables of x's positions; both halves of Megatron's hold the same."""
    seq, half = x.shape[0], emb_dim // 2
    return cos[:seq, ..., :half], sin[:seq, ..., :half]


class _RopeQ(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, cos: Tensor, sin: Tensor, nope: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.nope = nope
        out = torch.empty_like(q)
        out[..., :nope] = q[..., :nope]
        _rotate(q[..., nope:], cos, sin, out[..., nope:])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        out = torch.empty_like(grad)
        out[..., : ctx.nope] = grad[..., : ctx.nope]
        _rotate_back(grad[..., ctx.nope :], cos, sin, out[..., ctx.nope :])
        return out, None, None, None


class _RopeKV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kv: Tensor, k_rope: Tensor, cos: Tensor, sin: Tensor, nope: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.nope = nope
        key = kv.new_empty(*kv.shape[:-1], nope + k_rope.shape[-1])
        key[..., :nope] = kv[..., :nope]
        turned = torch.empty_like(k_rope)
        _rotate(k_rope, cos, sin, turned)
        key[..., nope:] = turned
        return key, kv[..., nope:].contiguous()

    @staticmethod
    def backward(ctx: Any, d_key: Tensor, d_value: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        d_kv = d_key.new_empty(*d_key.shape[:-1], ctx.nope + d_value.shape[-1])
        d_kv[..., : ctx.nope], d_kv[..., ctx.nope :] = d_key[..., : ctx.nope], d_value
        d_turned = d_key[..., ctx.nope :].sum(2, keepdim=True)
        d_rope = torch.empty_like(d_turned)
        _rotate_back(d_turned, cos, sin, d_rope)
        return d_kv, d_rope, None, None, None
