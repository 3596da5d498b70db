"""Grouped-query attention of the dense families (Llama 3, Qwen2.5, Qwen3): its core for training, and decoding with a
cache of every key and value.

Shapes: T tokens, N query heads, G heads of key and value, D = head_dim, W = 2 * G * D, what is cached per token.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.attention import CoreAttention
from modeling.config import ModelConfig
from modeling.decode_weights import Norm, norm_of, rms_norm


class GroupedCore(CoreAttention):
    """CoreAttention with the scale of grouped queries, which Megatron leaves to it."""

    def __init__(self, config: Any, softmax_scale: float | None = None, **kwargs: Any) -> None:
        scale = config.kv_channels**-0.5 if softmax_scale is None else softmax_scale
        super().__init__(config, softmax_scale=scale, **kwargs)


@dataclass(slots=True)
class GroupedAttention:
    """A layer's attention without its core, and the core over the cache; as modeling.decode walks it."""

    norm: Norm
    "Before the layer."
    qkv: Tensor
    "[G * (N / G + 2) * D, hidden]: for each group its query heads, its key, its value."
    bias: Tensor | None
    "Of qkv's rows (Qwen2.5)."
    q_norm: Norm | None
    "Of each query head (Qwen3)."
    k_norm: Norm | None
    out: Tensor
    "[hidden, N * D]."
    groups: int
    "G."
    dim: int
    "D."

    @property
    def cached(self) -> int:
        """W."""
        return 2 * self.groups * self.dim

    @property
    def attended(self) -> int:
        """Width of what a head reads from the cache."""
        return self.dim

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, hidden], cos and sin [T, D] -> queries [T, N, D] and what is cached [T, W]."""
        rows = F.linear(rms_norm(x, *self.norm), self.qkv, self.bias).unflatten(1, (self.groups, -1, self.dim))
        query, key, value = rows.split([rows.shape[2] - 2, 1, 1], 2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = rms_norm(query, *self.q_norm), rms_norm(key, *self.k_norm)
        cos, sin = cos[:, None, None], sin[:, None, None]
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        return query.flatten(1, 2), torch.cat([key, value], 2).flatten(1)

    def prefill(self, query: Tensor, cached: Tensor) -> Tensor:
        """Causal: query [rows, seq, N, D], cached [rows, seq, W] -> [rows, seq, N, D]."""
        key, value = self._heads(cached)
        query = query.transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)

    def attend(self, query: Tensor, cached: Tensor, mask: Tensor, out: Tensor) -> None:
        """One query a row, query [rows, N, D] over cached [rows, columns, W] -> out [rows, N, D].

        mask [rows, 1, columns] is added to the scores.
        """
        key, value = self._heads(cached)
        together = query.unflatten(1, (self.groups, -1))  # the heads of a group as one sequence of queries
        mask = mask.unsqueeze(1).to(query.dtype)
        out.copy_(F.scaled_dot_product_attention(together, key, value, attn_mask=mask).flatten(1, 2))

    def output(self, attended: Tensor) -> Tensor:
        """[T, N, D] -> [T, hidden]."""
        return F.linear(attended.flatten(1), self.out)

    def _heads(self, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, G, columns, D] as views."""
        by_head = cached.unflatten(-1, (self.groups, 2, self.dim)).transpose(1, 2)
        return by_head[..., 0, :], by_head[..., 1, :]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, G, heads, D] turned by the angles of its position, first half with second half."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def grouped_weights(layer: Any, cfg: ModelConfig) -> GroupedAttention:
    """The attention of a Megatron layer; its own weights, nothing is copied."""
    attention = layer.self_attention
    bias = attention.linear_qkv.bias
    return GroupedAttention(
        norm=norm_of(layer.input_layernorm),
        qkv=attention.linear_qkv.weight.detach(),
        bias=bias.detach() if cfg.has_qkv_bias else None,
        q_norm=norm_of(attention.q_layernorm) if cfg.has_qk_norm else None,
        k_norm=norm_of(attention.k_layernorm) if cfg.has_qk_norm else None,
        out=attention.linear_proj.weight.detach(),
        groups=cfg.num_key_value_heads,
        dim=cfg.head_dim,
    )
