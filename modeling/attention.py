"""What multi-head latent attention (V3 section 2.1.1) lacks off-GPU: core attention and RMSNorm as spec modules."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class CoreAttention(nn.Module):
    """Softmax attention by torch's fused kernel, in the place of Megatron's DotProductAttention."""

    def __init__(self, config: Any, softmax_scale: float, **kwargs: Any) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        """query, key [seq, batch, heads, d_qk], value [seq, batch, heads, d_v] -> [seq, batch, heads * d_v].

        attention_mask: None is causal; else bool [batch, 1, seq, seq], True where a query must not look.
        """
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        width = v.shape[-1]
        # With unequal head sizes the CPU kernel falls back to an explicit softmax, 1.6 times slower.
        v = F.pad(v, (0, q.shape[-1] - width))
        mask = None if attention_mask is None else ~attention_mask
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.softmax_scale)
        return out[..., :width].permute(2, 0, 1, 3).flatten(2)


class RMSNorm(nn.RMSNorm):
    """Megatron's torch norm refuses sequence parallelism; this one marks its gradient for the all-reduce over TP."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel
