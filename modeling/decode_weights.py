"""The weights of one decoder layer as decoding reads them: matrices that read the same input fused, W_UK and W_UV
absorbed (V3 §2.1.1), experts stacked (V3 §2.1.2). Same results as the Megatron modules' forward but for rounding.

Shapes: T tokens, N heads, C = kv_lora_rank, R = qk_rope_head_dim, E experts.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config import ModelConfig, ScoringFunc
from modeling.kernels import grouped_mm

Norm = tuple[Tensor, float]

# Up to so many tokens, all experts in one product are faster than a product for each (measured on AVX2, 8 experts).
FEW_TOKENS = 32


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., width] over its root mean square, times weight [width]."""
    return F.rms_norm(x, weight.shape, weight, eps)


def norm_of(module: Any) -> Norm:
    """A Megatron norm's weight and epsilon."""
    return module.weight.detach(), module.eps


@dataclass(slots=True)
class Attention:
    """Multi-head latent attention without its core."""

    norm: Norm
    "Before the layer."
    down: Tensor
    "[C + 2R + query's inner width or, without query compression, query's rows, hidden]."
    kv_norm: Norm
    q_norm: Norm | None
    "Of the compressed query; None without compression."
    q_up: Tensor | None
    "Query's rows [N * (nope or C, then 2R), query's inner width]; None without compression."
    w_uk: Tensor | None
    "[N, nope, C]; None where the product with it is already in the query's rows."
    w_uv: Tensor | None
    "[N, C, v]; None where the product with it is already in `out`."
    out: Tensor
    "[hidden, N * (v or C)]."
    heads: int
    rank: int
    "C."
    rope: int
    "R."
    scale: float
    "Of the scores, YaRN's temperature included."

    @property
    def cached(self) -> int:
        """Numbers cached per token, C + R."""
        return self.rank + self.rope

    @property
    def attended(self) -> int:
        """Width of what a head reads from the cache."""
        return self.rank

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, hidden], cos and sin [T, R] -> queries [T, N, C + R] and what is cached [T, C + R]."""
        rank, rope = self.rank, self.rope
        y = F.linear(rms_norm(x, *self.norm), self.down)
        latent, query = y[:, : rank + rope], y[:, rank + 2 * rope :]
        latent[:, rank:].mul_(cos).addcmul_(y[:, rank + rope : rank + 2 * rope], sin)
        latent[:, :rank] = rms_norm(latent[:, :rank], *self.kv_norm)
        if self.q_norm is not None:
            query = F.linear(rms_norm(query, *self.q_norm), self.q_up)
        query = query.unflatten(1, (self.heads, -1))
        rotated = query[..., -2 * rope : -rope].mul_(cos.unsqueeze(1)).addcmul_(query[..., -rope:], sin.unsqueeze(1))
        if self.w_uk is None:
            return query[..., :-rope], latent
        content = torch.bmm(query[..., : -2 * rope].transpose(0, 1), self.w_uk).transpose(0, 1)
        return torch.cat([content, rotated], -1), latent

    def prefill(self, query: Tensor, cached: Tensor) -> Tensor:
        """Causal: query [rows, seq, N, C + R], cached [rows, seq, C + R] -> weighted latents [rows, seq, N, C]."""
        # Keys serve as values, whose tail is cut off.
        keys = cached.unsqueeze(1).expand(-1, query.shape[2], -1, -1)
        query = query.transpose(1, 2)
        out = F.scaled_dot_product_attention(query, keys, keys, is_causal=True, scale=self.scale)
        return out[..., : self.rank].transpose(1, 2)

    def attend(self, query: Tensor, cached: Tensor, mask: Tensor, out: Tensor) -> None:
        """One query a row, query [rows, N, C + R] over cached [rows, columns, C + R] -> weighted latents, out
        [rows, N, C]. mask [rows, 1, columns] is added to the scores."""
        scores = torch.bmm(query, cached.mT)
        weights = torch.softmax(torch.add(mask, scores, alpha=self.scale), -1).to(query.dtype)
        torch.bmm(weights, cached[..., : self.rank], out=out)

    def output(self, attended: Tensor) -> Tensor:
        """Weighted latents [T, N, C] -> [T, hidden]."""
        if self.w_uv is not None:
            attended = torch.bmm(attended.transpose(0, 1), self.w_uv).transpose(0, 1)
        return F.linear(attended.flatten(1), self.out)


def attention_weights(layer: Any, cfg: ModelConfig) -> Attention:
    """Fuse and absorb the attention of a Megatron layer."""
    attention = layer.self_attention
    heads, rank, rope = cfg.num_attention_heads, cfg.kv_lora_rank, cfg.qk_rope_head_dim
    nope, v = cfg.qk_nope_head_dim, cfg.v_head_dim
    compressed = cfg.q_lora_rank is not None
    query = (attention.linear_q_up_proj if compressed else attention.linear_q_proj).weight.detach()
    query = query.unflatten(0, (heads, nope + rope))
    w_uk, w_uv = attention.linear_kv_up_proj.weight.detach().unflatten(0, (heads, nope + v)).split([nope, v], 1)
    latent, key = attention.linear_kv_down_proj.weight.detach().split([rank, rope])
    out = attention.linear_proj.weight.detach()

    content = query[:, :nope]
    if fold_query := _folds(query.shape[-1], rank, nope, heads, rope, out.dtype):
        content = w_uk.mT @ content
    if fold_out := _folds(out.shape[0], rank, v, heads, 0, out.dtype):
        out = torch.einsum("hnv,nvc->hnc", out.unflatten(1, (heads, v)), w_uv).flatten(1)
    query = torch.cat([content, _rotatable(query[:, nope:])], 1).flatten(0, 1)
    first = attention.linear_q_down_proj.weight.detach() if compressed else query
    return Attention(
        norm=norm_of(layer.input_layernorm),
        down=torch.cat([latent, _rotatable(key), first]),
        kv_norm=norm_of(attention.kv_layernorm),
        q_norm=norm_of(attention.q_layernorm) if compressed else None,
        q_up=query if compressed else None,
        w_uk=None if fold_query else w_uk,
        w_uv=None if fold_out else w_uv.mT.contiguous(),
        out=out,
        heads=heads,
        rank=rank,
        rope=rope,
        scale=attention.softmax_scale,
    )


def _rotatable(rows: Tensor) -> Tensor:
    """Rows of rotated dimensions [..., R, in], pairs interleaved -> [..., 2R, in]: halves as Megatron orders them, then
    these turned by a right angle, so that rotation is first * cos + second * sin."""
    a, b = rows[..., 0::2, :], rows[..., 1::2, :]
    return torch.cat([a, b, -b, a], -2)


def _folds(outer: int, rank: int, inner: int, heads: int, rope: int, dtype: torch.dtype) -> bool:
    """Whether one product replaces two: at up to 1.5 times the arithmetic the saved copies pay (measured on CPU).

    Not in BF16, where a product of weights would be rounded once more than the trainer's.
    """
    apart = outer * heads * (inner + rope) + heads * inner * rank
    return dtype is torch.float32 and outer * heads * (rank + rope) <= 1.5 * apart


@dataclass(slots=True)
class Dense:
    """A SwiGLU layer."""

    norm: Norm
    gate_up: Tensor
    "[2 * inner, hidden], rows [gate; up]."
    down: Tensor
    "[hidden, inner]."

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        return _swiglu(rms_norm(x, *self.norm), self.gate_up, self.down)


@dataclass(slots=True)
class Experts:
    """A mixture of experts; routing as in Megatron's router."""

    norm: Norm
    router: Tensor
    "[E, hidden], FP32."
    bias: Tensor | None
    "[E], FP32: moves the choice, not the gate (V3 eq. 16)."
    gate_up: Tensor
    "[E, 2 * inner, hidden], rows [gate; up]."
    down: Tensor
    "[E, hidden, inner]."
    down_all: Tensor | None
    "[hidden, E * inner]; None where running all experts on all tokens never pays."
    shared: tuple[Tensor, Tensor] | None
    "The shared experts as one SwiGLU, rows [gate; up] and down."
    cfg: ModelConfig

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, hidden] -> [T, hidden]."""
        x = rms_norm(x, *self.norm)
        gates, chosen = self.route(x)
        if self.down_all is not None and len(x) <= FEW_TOKENS:
            out = self._all(x, gates, chosen)
        else:
            out = self._sorted(x, gates, chosen)
        return out if self.shared is None else out.add_(_swiglu(x, *self.shared))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, hidden] -> gate values (FP32) and expert numbers, each [T, num_experts_per_tok] (V3 eq. 13-16)."""
        cfg = self.cfg
        logits = F.linear(x.float(), self.router)
        sigmoid = cfg.scoring_func is ScoringFunc.sigmoid
        scores = logits.sigmoid_() if sigmoid else torch.softmax(logits, -1)
        ranked = scores if self.bias is None else scores + self.bias
        if cfg.n_group > 1:
            ranked = self._in_best_groups(ranked)
        chosen = ranked.topk(cfg.num_experts_per_tok, -1, sorted=False).indices
        gates = scores.gather(1, chosen)
        if sigmoid:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        return gates.mul_(cfg.routed_scaling_factor), chosen

    def _in_best_groups(self, ranked: Tensor) -> Tensor:
        """Hide the experts outside the topk_group best groups; a group is scored by its best experts' sum."""
        cfg = self.cfg
        groups = ranked.unflatten(1, (cfg.n_group, -1))
        score = groups.topk(cfg.num_experts_per_tok // cfg.topk_group, -1).values.sum(-1)
        best = score.topk(cfg.topk_group, -1).indices
        hidden = torch.ones(groups.shape[:2], dtype=torch.bool, device=ranked.device).scatter_(1, best, False)
        return groups.masked_fill(hidden.unsqueeze(-1), float("-inf")).flatten(1)

    def _all(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Every expert on every token, gates of zero where not chosen: two products, the fastest for few tokens."""
        gate, up = F.linear(x, self.gate_up.flatten(0, 1)).unflatten(1, (len(self.gate_up), -1)).chunk(2, -1)
        spread = gates.new_zeros(len(x), len(self.gate_up), 1).scatter_(1, chosen.unsqueeze(-1), gates.unsqueeze(-1))
        return F.linear((F.silu(gate) * up).mul_(spread).flatten(1), self.down_all)

    def _sorted(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Tokens sorted by expert, one product for each expert's run."""
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=len(self.gate_up)).tolist()
        tokens = order // chosen.shape[1]
        gate, up = grouped_mm(x[tokens], self.gate_up.mT, counts).chunk(2, -1)
        inner = (F.silu(gate) * up).mul_(gates.flatten()[order].unsqueeze(-1))
        return torch.zeros_like(x).index_add_(0, tokens, grouped_mm(inner, self.down.mT, counts))


def mlp_weights(layer: Any, cfg: ModelConfig) -> Dense | Experts:
    """The feed-forward part of a Megatron layer; experts from SequentialMLP are stacked, batched ones are views."""
    norm, mlp = norm_of(layer.pre_mlp_layernorm), layer.mlp
    if not hasattr(mlp, "router"):
        return Dense(norm, mlp.linear_fc1.weight.detach(), mlp.linear_fc2.weight.detach())
    if hasattr(mlp.experts, "local_experts"):
        experts = mlp.experts.local_experts
        gate_up, down = (
            torch.stack([getattr(expert, name).weight.detach() for expert in experts])
            for name in ("linear_fc1", "linear_fc2")
        )
    else:
        gate_up, down = mlp.experts.weight1.detach(), mlp.experts.weight2.detach()
    shared = mlp.shared_experts if cfg.n_shared_experts else None
    few = cfg.n_routed_experts <= 4 * cfg.num_experts_per_tok
    return Experts(
        norm=norm,
        router=mlp.router.weight.detach().float(),
        bias=mlp.router.expert_bias.detach().float() if cfg.has_expert_bias else None,
        gate_up=gate_up,
        down=down,
        down_all=down.transpose(0, 1).flatten(1).contiguous() if few else None,
        shared=None if shared is None else (shared.linear_fc1.weight.detach(), shared.linear_fc2.weight.detach()),
        cfg=cfg,
    )


def _swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(F.silu(gate).mul_(up), down)
