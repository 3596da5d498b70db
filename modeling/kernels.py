"""What runs as one kernel on GPU, as one node of autograd on CPU: RMSNorm, SwiGLU, cross-entropy, MLA's rotations.

Written out in torch operations they are a third of a tiny model's step: many passes over small tensors, each with a
backward of its own. cpu.py gives them to Megatron in the place of its fused ones. Each runs as one pass in C where
there is a compiler (native.py), and in torch elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling import native


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; FP32."""
    return _RMSNorm.apply(x, weight, eps)


def rms_norm_residual(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x, and x: its gradient through both is summed in the same pass."""
    return _RMSNormResidual.apply(x, weight, eps)


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x and its 1 / rms, one a row."""
    stride = _row_stride(x)
    if stride is None or not native.usable(x, weight):
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return (x * scale).mul_(weight), scale
    out, scale = x.new_empty(x.shape), x.new_empty(*x.shape[:-1], 1)
    native.call("rms_norm", scale.numel(), x.shape[-1], stride, eps, x, weight, out, scale)
    return out, scale


def _norm_backward(
    x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, with that of the residual branch added, and of weight."""
    stride = _row_stride(x)
    if stride is not None and native.usable(x, weight, grad):
        grad, residual = grad.contiguous(), None if residual is None else residual.contiguous()
        dx, d_weight = x.new_empty(x.shape), torch.zeros_like(weight)
        sizes = scale.numel(), x.shape[-1], stride
        native.call("rms_norm_backward", *sizes, x, weight, scale, grad, residual, dx, d_weight)
        return dx, d_weight
    # y = w x s with s = 1 / rms: dw = sum of s (x g), dx = s (w g) - x s^3 mean(w (x g))
    both = (x * grad).flatten(0, -2)
    d_weight = scale.flatten() @ both
    inside = (both @ weight).view_as(scale).mul_(scale.pow(3)).div_(x.shape[-1])
    dx = (grad * weight).mul_(scale).addcmul_(x, inside, value=-1)
    return (dx if residual is None else dx.add_(residual)), d_weight


def _row_stride(x: Tensor) -> int | None:
    """Numbers from one row of x to the next, where all rows are as far apart; None where they are not."""
    if x.is_contiguous():
        return x.shape[-1]
    steps = [(size, step) for size, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    even = all(outer == inner * size for (_, outer), (size, inner) in zip(steps, steps[1:], strict=False))
    return steps[-1][1] if steps and even and x.stride(-1) == 1 else None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_norm_backward(*ctx.saved_tensors, grad, None), None


class _RMSNormResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        out, scale = _norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_norm_backward(*ctx.saved_tensors, grad, residual), None


def swiglu(gate_up: Tensor, bias: None = None, *unused: Any) -> Tensor:
    """silu(gate) * up of gate_up [..., gate; up]; Megatron's bias_swiglu_impl without a bias."""
    return _SwiGLU.apply(gate_up)


def swiglu_forward(gate_up: Tensor, factor: Tensor | None = None) -> Tensor:
    """silu(gate) * up of contiguous gate_up [..., gate; up], times a factor a row. Not differentiable by itself."""
    width = gate_up.shape[-1] // 2
    if native.usable(gate_up):
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        native.call("swiglu", gate_up.numel() // gate_up.shape[-1], width, gate_up, factor, out)
        return out
    gate, up = gate_up.chunk(2, -1)
    out = F.silu(gate).mul_(up)
    return out if factor is None else out.mul_(factor.unsqueeze(-1))


def swiglu_backward(
    gate_up: Tensor, grad: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of gate_up and of the factor, and swiglu_forward's result once more; the last two with a factor."""
    width = gate_up.shape[-1] // 2
    d_gate_up = torch.empty_like(gate_up)
    if native.usable(gate_up, grad):
        d_factor = None if factor is None else torch.empty_like(factor)
        inner = None if factor is None else torch.empty_like(grad)
        sizes = gate_up.numel() // gate_up.shape[-1], width
        native.call("swiglu_backward", *sizes, gate_up, factor, grad, d_gate_up, d_factor, inner)
        return d_gate_up, d_factor, inner
    gate, up = gate_up.chunk(2, -1)
    silu = F.silu(gate)
    inner = d_factor = None
    if factor is not None:
        inner = silu * up
        d_factor = torch.linalg.vecdot(grad, inner)
        inner.mul_(factor.unsqueeze(-1))
        grad = grad * factor.unsqueeze(-1)
    d_gate, d_up = d_gate_up.chunk(2, -1)
    torch.mul(grad, silu, out=d_up)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=d_gate)
    return d_gate_up, d_factor, inner


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        return swiglu_forward(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return swiglu_backward(*ctx.saved_tensors, grad.contiguous())[0]


def grouped_mm(x: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
    """Run e of x [tokens, a], counts[e] long, times weights[e] [a, b] -> [tokens, b]. Not differentiable by itself."""
    out = x.new_empty(x.shape[0], weights.shape[-1])
    for run, weight, result in zip(x.split(counts), weights, out.split(counts), strict=True):
        torch.mm(run, weight, out=result)
    return out


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target): logits [seq, batch, vocab], target [seq, batch] -> [seq, batch], FP32."""
    logits = logits.float()
    if native.usable(logits) and logits.is_contiguous():
        return _CrossEntropy.apply(logits, target.contiguous())
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view_as(target)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        vocab = logits.shape[-1]
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < vocab:
            raise IndexError(f"cross_entropy: targets {int(target.min())} to {int(target.max())}, vocabulary {vocab}")
        loss, log_sum = logits.new_empty(target.shape), logits.new_empty(target.shape)
        native.call("cross_entropy", target.numel(), vocab, logits, target, loss, log_sum)
        ctx.save_for_backward(logits, target, log_sum)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, target, log_sum = ctx.saved_tensors
        d_logits, sizes = torch.empty_like(logits), (target.numel(), logits.shape[-1])
        native.call("cross_entropy_backward", *sizes, logits, target, log_sum, grad.contiguous(), d_logits)
        return d_logits, None


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v over the past; only in C (native.usable).

    query, key [seq, batch, heads, d], value [seq, batch, heads, d_v] -> [seq, batch, heads * d_v].
    """
    return _CausalAttention.apply(query.contiguous(), key.contiguous(), value.contiguous(), scale)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        seq, batch, heads, d = q.shape
        out, log_sum = v.new_empty(seq, batch, heads * v.shape[-1]), v.new_empty(batch, heads, seq)
        native.call("attention", seq, batch * heads, d, v.shape[-1], scale, q, k, v, out, log_sum)
        ctx.save_for_backward(q, k, v, log_sum)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, log_sum = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        sizes = q.shape[0], q.shape[1] * q.shape[2], q.shape[3], v.shape[3], ctx.scale
        native.call("attention_backward", *sizes, q, k, v, log_sum, grad.contiguous(), dq, dk, dv)
        return dq, dk, dv, None


def route(
    logits: Tensor, topk: int, factor: float = 1.0, bias: Tensor | None = None, every: bool = False
) -> tuple[Tensor, Tensor]:
    """Sigmoid routing (V3 eq. 13 to 16) of logits [tokens, experts] -> gates and choice (bool), [tokens, experts].

    every: gates of all experts, as shares of all scores, for the balance loss (eq. 18, 20). Only in C (native.usable).
    """
    return _Route.apply(logits.contiguous(), bias, topk, factor, every)


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, bias: Tensor | None, topk: int, factor: float, every: bool
    ) -> tuple[Tensor, Tensor]:
        scores, gates, chosen = (torch.empty_like(logits, dtype=t) for t in (None, None, torch.bool))
        native.call("route", *logits.shape, topk, int(every), factor, logits, bias, scores, gates, chosen)
        ctx.save_for_backward(scores, chosen)
        ctx.rest = int(every), factor
        ctx.mark_non_differentiable(chosen)
        return gates, chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None, None, None, None]:
        scores, chosen = ctx.saved_tensors
        d_logits = torch.empty_like(scores)
        native.call("route_backward", *scores.shape, *ctx.rest, scores, chosen, grad.contiguous(), d_logits)
        return d_logits, None, None, None, None


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
        return _turn_q(q, cos, sin, nope, _rotate, back=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _turn_q(grad, *ctx.saved_tensors, ctx.nope, _rotate_back, back=1), None, None, None


def _turn_q(q: Tensor, cos: Tensor, sin: Tensor, nope: int, rotate: Callable[..., None], back: int) -> Tensor:
    """The query's rotation, or its transpose, by both ways."""
    q = q.contiguous()
    out = torch.empty_like(q)
    if native.usable(q, cos, sin):
        sizes = q.shape[0], q.shape[1] * q.shape[2], nope, cos.shape[-1]
        native.call("rope_q", *sizes, q, cos, sin, cos.stride(0), back, out)
        return out
    out[..., :nope] = q[..., :nope]
    rotate(q[..., nope:], cos, sin, out[..., nope:])
    return out


class _RopeKV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kv: Tensor, k_rope: Tensor, cos: Tensor, sin: Tensor, nope: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.nope = nope
        key = kv.new_empty(*kv.shape[:-1], nope + k_rope.shape[-1])
        stride = _row_stride(k_rope)
        if stride is not None and native.usable(kv, k_rope, cos, sin):
            value = kv.new_empty(*kv.shape[:-1], kv.shape[-1] - nope)
            sizes = *kv.shape[:3], nope, cos.shape[-1], value.shape[-1]
            native.call("rope_kv", *sizes, kv.contiguous(), k_rope, stride, cos, sin, cos.stride(0), key, value)
            return key, value
        key[..., :nope] = kv[..., :nope]
        turned = torch.empty_like(k_rope)
        _rotate(k_rope, cos, sin, turned)
        key[..., nope:] = turned
        return key, kv[..., nope:].contiguous()

    @staticmethod
    def backward(ctx: Any, d_key: Tensor, d_value: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        d_kv = d_key.new_empty(*d_key.shape[:-1], ctx.nope + d_value.shape[-1])
        if native.usable(d_key, d_value, cos, sin):
            d_rope = d_key.new_empty(*d_key.shape[:2], 1, 2 * cos.shape[-1])
            sizes = *d_key.shape[:3], ctx.nope, cos.shape[-1], d_value.shape[-1]
            grads = d_key.contiguous(), d_value.contiguous()
            native.call("rope_kv_backward", *sizes, *grads, cos, sin, cos.stride(0), d_kv, d_rope)
            return d_kv, d_rope, None, None, None
        d_kv[..., : ctx.nope], d_kv[..., ctx.nope :] = d_key[..., : ctx.nope], d_value
        d_turned = d_key[..., ctx.nope :].sum(2, keepdim=True)
        d_rope = torch.empty_like(d_turned)
        _rotate_back(d_turned, cos, sin, d_rope)
        return d_kv, d_rope, None, None, None
