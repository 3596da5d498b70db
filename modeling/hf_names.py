"""The one table between Megatron-core's names and those of Hugging Face's models, read in both directions.

A slot is a Hugging Face name and the part of a Megatron tensor that it fills: loading copies into the part, saving
reads it. A family or a module with other names is more rows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from modeling.config import Head, ModelConfig
from modeling.vision_config import weight_shapes

SCORE = "score.weight"
"The head of a network that scores, as transformers' models for sequence classification have it."
VISION = "vision."
"How names of encoder and projector begin."
# Several names on the right share the rows of the Megatron tensor, in this order. {e} is the expert; on the right
# alone, the Megatron tensor holds one slice [e] for each.
_MODEL: dict[str, tuple[str, ...]] = {
    "embedding.word_embeddings.weight": ("model.embed_tokens.weight",),
    "decoder.final_layernorm.weight": ("model.norm.weight",),
    "output_layer.weight": ("lm_head.weight",),
}
_LAYER: dict[str, tuple[str, ...]] = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    # Dense layers
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
}
_DEEPSEEK_LAYER: dict[str, tuple[str, ...]] = _LAYER | {
    "self_attention.linear_q_proj.weight": ("self_attn.q_proj.weight",),
    "self_attention.linear_q_down_proj.weight": ("self_attn.q_a_proj.weight",),
    "self_attention.q_layernorm.weight": ("self_attn.q_a_layernorm.weight",),
    "self_attention.linear_q_up_proj.weight": ("self_attn.q_b_proj.weight",),
    "self_attention.linear_kv_down_proj.weight": ("self_attn.kv_a_proj_with_mqa.weight",),
    "self_attention.kv_layernorm.weight": ("self_attn.kv_a_layernorm.weight",),
    "self_attention.linear_kv_up_proj.weight": ("self_attn.kv_b_proj.weight",),
    # Mixtures of experts
    "mlp.router.weight": ("mlp.gate.weight",),
    "mlp.router.expert_bias": ("mlp.gate.e_score_correction_bias",),
    "mlp.shared_experts.linear_fc1.weight": (
        "mlp.shared_experts.gate_proj.weight",
        "mlp.shared_experts.up_proj.weight",
    ),
    "mlp.shared_experts.linear_fc2.weight": ("mlp.shared_experts.down_proj.weight",),
    # Routed experts: Megatron's SequentialMLP, then our BatchedExperts
    "mlp.experts.local_experts.{e}.linear_fc1.weight": (
        "mlp.experts.{e}.gate_proj.weight",
        "mlp.experts.{e}.up_proj.weight",
    ),
    "mlp.experts.local_experts.{e}.linear_fc2.weight": ("mlp.experts.{e}.down_proj.weight",),
    "mlp.experts.weight1": ("mlp.experts.{e}.gate_proj.weight", "mlp.experts.{e}.up_proj.weight"),
    "mlp.experts.weight2": ("mlp.experts.{e}.down_proj.weight",),
}
# Llama, Qwen2.5, Qwen3. Rows of linear_qkv come group by group: the group's query heads, its key, its value.
_DENSE_LAYER: dict[str, tuple[str, ...]] = _LAYER | {
    "self_attention.linear_qkv.weight": (
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ),
    "self_attention.linear_qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "self_attention.q_layernorm.weight": ("self_attn.q_norm.weight",),
    "self_attention.k_layernorm.weight": ("self_attn.k_norm.weight",),
}
# A multi-token prediction module, its decoder layer aside.
_MTP: dict[str, tuple[str, ...]] = {
    "enorm.weight": ("enorm.weight",),
    "hnorm.weight": ("hnorm.weight",),
    "eh_proj.weight": ("eh_proj.weight",),
    "final_layernorm.weight": ("shared_head.norm.weight",),
}
# What the released DeepSeek-V3 repeats in each MTP module: copies of the model's own embedding and head.
_MTP_COPIES = ("embed_tokens.weight", "shared_head.head.weight")

_DECODER_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_MTP_LAYER = re.compile(r"mtp\.layers\.(\d+)\.(mtp_model_layer\.)?(.+)")
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
_LOCAL_EXPERT = re.compile(r"(?<=\.local_experts\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a Hugging Face tensor, or this rank's part of it, lies in a Megatron tensor."""

    name: str
    "Hugging Face's."
    part: Tensor
    "A view of the Megatron tensor; with one more dimension than the Hugging Face tensor where its rows lie in groups."
    shape: tuple[int, ...]
    "Of this rank's part under Hugging Face's name."
    dim: int | None = None
    "The dimension that tensor-parallel ranks split; None where each holds the whole."

    def fill(self, whole: Tensor, rank: int = 0) -> None:
        """Copy in the Hugging Face tensor, or what of it is tensor-parallel rank `rank`'s."""
        if self.dim is not None:
            size = self.shape[self.dim]
            whole = whole.narrow(self.dim, rank * size, size)
        self.part.copy_(whole.reshape(self.part.shape))

    def content(self) -> Tensor:
        """The values under Hugging Face's shape; a view where that can be."""
        return self.part.detach().reshape(self.shape)


def slots(
    name: str, tensor: Tensor, cfg: ModelConfig, *, first_expert: int = 0, dim: int | None = None
) -> Iterator[Slot]:
    """Megatron's tensor -> a slot for each Hugging Face tensor in it.

    name: with the layer's number in the whole model. first_expert: the whole model's number of this rank's expert 0.
    dim: the dimension of `tensor` that tensor-parallel ranks split. Raises KeyError for a name that the table lacks.

    Example: "decoder.layers.1.mlp.linear_fc1.weight" [2f, h] gives "model.layers.1.mlp.gate_proj.weight", its first f
    rows [f, h], and "model.layers.1.mlp.up_proj.weight", the other f rows.
    """
    if name.startswith(VISION):  # no released model has these: Megatron's names serve on both sides
        yield Slot(name, tensor, tuple(tensor.shape), dim)
        return
    layers = _DENSE_LAYER if cfg.is_dense else _DEEPSEEK_LAYER
    prefix, rest, table = "", name, _MODEL
    if found := _DECODER_LAYER.fullmatch(name):
        prefix, rest, table = f"model.layers.{found[1]}.", found[2], layers
    elif found := _MTP_LAYER.fullmatch(name):
        number = cfg.num_hidden_layers + int(found[1])
        prefix, rest, table = f"model.layers.{number}.", found[3], layers if found[2] else _MTP
    elif name == "output_layer.weight" and cfg.head is Head.score:
        table = {name: (SCORE,)}
    elif name == "output_layer.weight" and cfg.tie_word_embeddings:  # of a pipeline stage without the embedding
        rest = "embedding.word_embeddings.weight"

    local = _LOCAL_EXPERT.search(rest)
    targets = table[_LOCAL_EXPERT.sub("{e}", rest)]
    if local:
        experts = [(first_expert + int(local[0]), tensor)]
    elif "{e}" in targets[0]:
        experts = [(first_expert + e, one) for e, one in enumerate(tensor)]
    else:
        experts = [(0, tensor)]
    for expert, whole in experts:
        parts = _by_group(whole, cfg) if ".linear_qkv." in rest else whole.chunk(len(targets))
        for target, part in zip(targets, parts, strict=True):
            rows = part.shape if part.dim() == whole.dim() else (part.shape[0] * part.shape[1], *part.shape[2:])
            yield Slot(prefix + target.format(e=expert), part, tuple(rows), dim)


def _by_group(qkv: Tensor, cfg: ModelConfig) -> tuple[Tensor, ...]:
    """Rows of queries, keys, values, each [groups, rows of a group, ...] as a view."""
    heads = cfg.num_attention_heads // cfg.num_key_value_heads
    by_group = qkv.unflatten(0, (-1, (heads + 2) * cfg.head_dim))
    return by_group.split([heads * cfg.head_dim, cfg.head_dim, cfg.head_dim], 1)


def expected(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model's Hugging Face folder and its shape, layer after layer, MTP modules last.

    Their sizes add up to cfg.num_params(mtp=True), but for encoder and projector of images.
    """
    h, vocab = cfg.hidden_size, cfg.vocab_size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, h)}
    for number in range(cfg.num_hidden_layers):
        moe = number >= cfg.first_k_dense_replace
        found |= {f"model.layers.{number}.{name}": shape for name, shape in _layer_shapes(cfg, moe).items()}
    found["model.norm.weight"] = (h,)
    if cfg.head is Head.score:
        found[SCORE] = (1, h)
    elif not cfg.tie_word_embeddings:
        found["lm_head.weight"] = (vocab, h)
    for depth in range(cfg.num_nextn_predict_layers):
        mtp = _layer_shapes(cfg, True) | {"enorm.weight": (h,), "hnorm.weight": (h,), "eh_proj.weight": (h, 2 * h)}
        mtp["shared_head.norm.weight"] = (h,)
        found |= {f"model.layers.{cfg.num_hidden_layers + depth}.{name}": shape for name, shape in mtp.items()}
    return found | weight_shapes(cfg)


def _layer_shapes(cfg: ModelConfig, moe: bool) -> dict[str, tuple[int, ...]]:
    h = cfg.hidden_size
    found = {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
    attention = _grouped_shapes(cfg) if cfg.is_dense else _latent_shapes(cfg)
    found |= {f"self_attn.{name}": shape for name, shape in attention.items()}
    if not moe:
        return found | _swiglu_shapes("mlp", h, cfg.intermediate_size)
    found["mlp.gate.weight"] = (cfg.n_routed_experts, h)
    if cfg.has_expert_bias:
        found["mlp.gate.e_score_correction_bias"] = (cfg.n_routed_experts,)
    for expert in range(cfg.n_routed_experts):
        found |= _swiglu_shapes(f"mlp.experts.{expert}", h, cfg.moe_intermediate_size)
    if cfg.n_shared_experts:
        found |= _swiglu_shapes("mlp.shared_experts", h, cfg.n_shared_experts * cfg.moe_intermediate_size)
    return found


def _swiglu_shapes(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
        f"{prefix}.down_proj.weight": (hidden, inner),
    }


def _latent_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    h, n, rank = cfg.hidden_size, cfg.num_attention_heads, cfg.kv_lora_rank
    query = n * (cfg.qk_nope_head_dim + cfg.qk_rope_head_dim)
    found: dict[str, tuple[int, ...]] = {
        "kv_a_proj_with_mqa.weight": (rank + cfg.qk_rope_head_dim, h),
        "kv_a_layernorm.weight": (rank,),
        "kv_b_proj.weight": (n * (cfg.qk_nope_head_dim + cfg.v_head_dim), rank),
        "o_proj.weight": (h, n * cfg.v_head_dim),
    }
    if cfg.q_lora_rank is None:
        return found | {"q_proj.weight": (query, h)}
    return found | {
        "q_a_proj.weight": (cfg.q_lora_rank, h),
        "q_a_layernorm.weight": (cfg.q_lora_rank,),
        "q_b_proj.weight": (query, cfg.q_lora_rank),
    }


def _grouped_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    h, d = cfg.hidden_size, cfg.head_dim
    rows = {"q": cfg.num_attention_heads * d, "k": cfg.num_key_value_heads * d, "v": cfg.num_key_value_heads * d}
    found: dict[str, tuple[int, ...]] = {f"{name}_proj.weight": (size, h) for name, size in rows.items()}
    if cfg.has_qkv_bias:
        found |= {f"{name}_proj.bias": (size,) for name, size in rows.items()}
    if cfg.has_qk_norm:
        found |= {"q_norm.weight": (d,), "k_norm.weight": (d,)}
    return found | {"o_proj.weight": (h, rows["q"])}


def layer_of(name: str) -> int | None:
    """The layer's number in a Hugging Face name; MTP modules come after the decoder's layers."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def is_spare(name: str, cfg: ModelConfig) -> bool:
    """Whether a Hugging Face tensor repeats what the model has anyway: copies of embedding and head, rotary tables."""
    layer = layer_of(name)
    if layer is None:
        return name == "lm_head.weight" and (cfg.tie_word_embeddings or cfg.head is Head.score)
    rest = name.split(".", 3)[3]
    return (rest in _MTP_COPIES and layer >= cfg.num_hidden_layers) or rest == "self_attn.rotary_emb.inv_freq"
