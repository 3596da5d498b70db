"""What multi-head latent attention (V3 section 2.1.1) lacks off-GPU: core attention and RMSNorm as spec modules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import cpu, native
from modeling.context import own_places, whole_row
from modeling.kernels import causal_attention, rms_norm, rms_norm_residual

cpu.install()

from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention  # noqa: E402

_IN_CACHE = 512
"Longest row whose squares of scores the kernel in C keeps in a core's cache."
_SHORT = 160
"Longest row, in tokens, for which the explicit softmax is the faster one (measured on AVX2, 4 heads of 48)."


class CoreAttention(nn.Module):
    """Softmax attention by torch's fused kernel, in the place of Megatron's DotProductAttention.

    Context ranks have queries of their own and gather the keys and values of the whole row.
    """

    def __init__(self, config: Any, softmax_scale: float, pg_collection: Any = None, **kwargs: Any) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.context = pg_collection.cp if pg_collection is not None else None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        """query, key [seq, batch, heads, d_qk], value [seq, batch, heads, d_v] -> [seq, batch, heads * d_v].

        seq: this context rank's part of a row. Several heads of query may share one of key and value, in order.
        attention_mask: None is causal; else bool [batch, 1, seq, whole row], True where a query must not look.
        """
        if self.context is not None and self.context.size() > 1:
            key, value = whole_row(key, self.context), whole_row(value, self.context)
            if attention_mask is None:
                row = torch.arange(key.shape[0], device=key.device)
                attention_mask = row > own_places(len(row), self.context, key.device)[:, None]
        shared = query.shape[2] // key.shape[2]
        if shared > 1:
            key, value = (t.repeat_interleave(shared, 2) for t in (key, value))
        if attention_mask is None and query.shape[0] <= _IN_CACHE and native.usable(query, key, value):
            return causal_attention(query, key, value, self.softmax_scale)
        if attention_mask is None and query.shape[0] <= _SHORT and query.device.type == "cpu":
            return _short_attention(query, key, value, self.softmax_scale)
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        width = v.shape[-1]
        # With unequal head sizes the CPU kernel falls back to an explicit softmax, 1.6 times slower.
        v = F.pad(v, (0, q.shape[-1] - width))
        mask = None if attention_mask is None else ~attention_mask
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.softmax_scale)
        return out[..., :width].permute(2, 0, 1, 3).flatten(2)


def _short_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same, causal, with the whole square of scores: on CPU faster than the fused kernel for short rows."""
    seq, batch = query.shape[:2]
    q, k, v = (t.flatten(1, 2).transpose(0, 1) for t in (query, key, value))  # [batch * heads, seq, d]
    later = torch.full((seq, seq), float("-inf"), dtype=q.dtype).triu_(1)
    scores = torch.baddbmm(later.expand(q.shape[0], seq, seq), q, k.mT, alpha=scale)
    return torch.bmm(scores.softmax(-1), v).transpose(0, 1).reshape(seq, batch, -1)


class LatentAttention(MLASelfAttention):
    """MLA whose rotary key has its gradient from the heads of all tensor ranks.

    Where the down projection is split, Megatron hands each rank the whole rotary key and, going back, the gradient of
    the rank's own heads alone. Brought into the form of a projection that is not split, it is summed.
    """

    def _qkv_down_projection(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """hidden_states [seq, batch, hidden] of this rank -> its compressed queries, and [latent; rotary key] whole."""
        query, latent = super()._qkv_down_projection(hidden_states)
        if latent.shape[-1] != self.config.kv_lora_rank + self.config.qk_pos_emb_head_dim:
            latent = gather_from_tensor_model_parallel_region(latent)
            if self.config.sequence_parallel:
                latent = scatter_to_sequence_parallel_region(latent)
        return query, latent


class DirectQueryAttention(LatentAttention):
    """MLA without query compression (V2-Lite, Moonlight): a latent norm for key and value only.

    Megatron knows one setting for both norms, and refuses it for a query that is not compressed.
    """

    def _resolve_qk_norm_config(self, submodules: Any) -> dict[str, Any]:
        names = ("linear_q_proj", "linear_q_up_proj", "linear_kv_up_proj", "q_layernorm", "kv_layernorm")
        return {name: getattr(submodules, name) for name in names}


class RMSNorm(nn.RMSNorm):
    """Megatron's torch norm refuses sequence parallelism; this one marks its gradient for the all-reduce over TP."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return rms_norm(x, self.weight, self.eps)
        return super().forward(x)


class ResidualRMSNorm(RMSNorm):
    """Before attention and MLP: also hands on its input, which Megatron's layer takes as the residual branch.

    On CPU the two gradients of the input are then summed inside the norm's own pass.
    """

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return rms_norm_residual(x, self.weight, self.eps)
        return super().forward(x)
