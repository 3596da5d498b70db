"""What one token leaves behind in one layer for the backward pass, tensor by tensor (V3 sections 2.1, 3.2.3, 3.3.3).

After the estimator of yanring/Megatron-MoE-ModelZoo (misc/tools/deepseek_mem_estimate.py). Flash attention keeps no
scores; gates are applied before the second expert matrix, as in Megatron-core 0.19, so that its output is not kept.
"""

from collections.abc import Collection
from dataclasses import dataclass

from modeling.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor kept for the backward pass."""

    name: str
    elements: float
    "Numbers per token."
    bf16: float = 2.0
    "Bytes of a number in BF16 training."
    fp8: float = 2.0
    "Bytes of a number in FP8 training: inputs of matrix products are kept in FP8, others stay as they are."
    freed_by: str = ""
    "The recompute module that makes this tensor anew instead of keeping it."
    swiglu_input: bool = False
    "Whether plan.fp8_swiglu_input halves it."


def attention_tensors(model: ModelConfig) -> list[Kept]:
    """Of the norm, MLA and the residual of one layer."""
    h, n = model.hidden_size, model.num_attention_heads
    qk, q_rank, kv_rank = model.qk_nope_head_dim + model.qk_rope_head_dim, model.q_lora_rank or 0, model.kv_lora_rank
    return [
        Kept("layer input", h),
        Kept("normed input", h, fp8=1, freed_by="layernorm"),
        Kept("query latent", q_rank),
        Kept("normed query latent", q_rank, fp8=1),
        Kept("key-value latent", kv_rank),
        Kept("normed key-value latent", kv_rank, fp8=1),
        Kept("query", n * qk, freed_by="mla_up_proj"),
        Kept("key", n * qk, freed_by="mla_up_proj"),
        Kept("value", n * model.v_head_dim, freed_by="mla_up_proj"),
        Kept("attention output", n * model.v_head_dim, fp8=3),  # the core's own in BF16, the projection's input in FP8
        Kept("softmax statistics", n, bf16=4, fp8=4, freed_by="core_attn"),
        Kept("residual", h),
    ]


def dense_tensors(model: ModelConfig) -> list[Kept]:
    """Of a dense layer's second norm and SwiGLU."""
    width = model.intermediate_size
    return [
        Kept("normed residual", model.hidden_size, fp8=1, freed_by="layernorm"),
        Kept("SwiGLU input", 2 * width, freed_by="mlp", swiglu_input=True),
        Kept("SwiGLU output", width, fp8=1, freed_by="mlp"),
    ]


def moe_tensors(model: ModelConfig) -> list[Kept]:
    """Of a MoE layer's second norm, router, shared and routed experts, load spread evenly."""
    h, experts, k = model.hidden_size, model.n_routed_experts, model.num_experts_per_tok
    width, shared = k * model.moe_intermediate_size, model.n_shared_experts * model.moe_intermediate_size
    return [
        Kept("normed residual", h, fp8=2, freed_by="layernorm"),  # the router reads it in BF16
        Kept("router probabilities", experts, freed_by="moe"),
        Kept("permutation", experts, bf16=8, fp8=8, freed_by="moe"),
        Kept("shared SwiGLU input", 2 * shared, freed_by="shared_experts", swiglu_input=True),
        Kept("shared SwiGLU output", shared, fp8=1, freed_by="shared_experts"),
        Kept("permuted tokens", k * h, fp8=1, freed_by="moe"),
        Kept("expert SwiGLU input", 2 * width, freed_by="moe", swiglu_input=True),
        Kept("expert SwiGLU output", width, fp8=1, freed_by="moe_act"),
    ]


def mtp_tensors(model: ModelConfig) -> list[Kept]:
    """What an MTP module keeps beyond its layer: two states, their norms and the projection's input (V3 eq. 21)."""
    return [Kept("MTP states", 2 * model.hidden_size), Kept("MTP projection input", 2 * model.hidden_size, fp8=1)]


def layer_tensors(model: ModelConfig, moe: bool) -> list[Kept]:
    """All of one decoder layer."""
    return attention_tensors(model) + (moe_tensors(model) if moe else dense_tensors(model))


def is_freed(tensor: Kept, recompute: Collection[str]) -> bool:
    """Whether the tensor is recomputed. `full` keeps a layer's input alone; `moe` covers what is inside it."""
    if "full" in recompute:
        return tensor.name != "layer input"
    inside_moe = tensor.freed_by in ("moe_act", "shared_experts") and "moe" in recompute
    return tensor.freed_by in recompute or inside_moe


def kept_bytes(
    tensors: list[Kept], recompute: Collection[str], *, fp8: bool = False, fp8_swiglu_input: bool = False
) -> float:
    """Bytes a token that stay in memory until the backward pass. 457,728 in a MoE layer of 671b without recompute."""
    total = 0.0
    for tensor in tensors:
        if not is_freed(tensor, recompute):
            each = 1.0 if tensor.swiglu_input and fp8_swiglu_input else tensor.fp8 if fp8 else tensor.bf16
            total += tensor.elements * each
    return total
