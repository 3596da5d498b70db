"""The one table between Megatron-core's names and those of Hugging Face's DeepSeek models, read in both directions.

A pair is a Hugging Face name and the view of the Megatron tensor that it fills: loading copies into the view, saving
writes it. So the shape on either side is the other's, and a family or a module with other names is more rows.
"""

import re
from collections.abc import Iterator

from torch import Tensor

# Two names on the right are the upper and the lower half of the rows. {e} is the expert; on the right alone, the
# Megatron tensor holds one slice [e] for each.
_MODEL: dict[str, tuple[str, ...]] = {
    "embedding.word_embeddings.weight": ("model.embed_tokens.weight",),
    "decoder.final_layernorm.weight": ("model.norm.weight",),
    "output_layer.weight": ("lm_head.weight",),
}
_LAYER: dict[str, tuple[str, ...]] = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.linear_q_proj.weight": ("self_attn.q_proj.weight",),
    "self_attention.linear_q_down_proj.weight": ("self_attn.q_a_proj.weight",),
    "self_attention.q_layernorm.weight": ("self_attn.q_a_layernorm.weight",),
    "self_attention.linear_q_up_proj.weight": ("self_attn.q_b_proj.weight",),
    "self_attention.linear_kv_down_proj.weight": ("self_attn.kv_a_proj_with_mqa.weight",),
    "self_attention.kv_layernorm.weight": ("self_attn.kv_a_layernorm.weight",),
    "self_attention.linear_kv_up_proj.weight": ("self_attn.kv_b_proj.weight",),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    # Dense layers
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
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
# A multi-token prediction module, its decoder layer (_LAYER) aside.
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


def pairs(name: str, tensor: Tensor, *, num_layers: int, first_expert: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Megatron's tensor -> each Hugging Face name in it, with the view of the tensor that it is.

    num_layers: decoder layers of the whole model, behind which MTP modules are numbered. first_expert: the whole
    model's number of this rank's expert 0. Raises KeyError for a name that the table lacks.

    Example: "decoder.layers.1.mlp.linear_fc1.weight" [2f, h] gives ("model.layers.1.mlp.gate_proj.weight", its first f
    rows [f, h]) and ("model.layers.1.mlp.up_proj.weight", the other f rows).
    """
    prefix, rest, table = "", name, _MODEL
    if found := _DECODER_LAYER.fullmatch(name):
        prefix, rest, table = f"model.layers.{found[1]}.", found[2], _LAYER
    elif found := _MTP_LAYER.fullmatch(name):
        prefix, rest, table = (f"model.layers.{num_layers + int(found[1])}.", found[3], _LAYER if found[2] else _MTP)

    local = _LOCAL_EXPERT.search(rest)
    targets = table[_LOCAL_EXPERT.sub("{e}", rest)]
    if local:
        experts = [(first_expert + int(local[0]), tensor)]
    elif "{e}" in targets[0]:
        experts = [(first_expert + e, one) for e, one in enumerate(tensor)]
    else:
        experts = [(0, tensor)]
    for expert, whole in experts:
        for target, view in zip(targets, whole.chunk(len(targets)), strict=True):
            yield prefix + target.format(e=expert), view


def expert_of(name: str) -> int | None:
    """The expert's number in a Hugging Face name, None for what is no routed expert's."""
    found = _EXPERT.search(name)
    return int(found[0]) if found else None


def without_expert(name: str) -> str:
    """The Hugging Face name with its expert's number left out, the same for all experts of a layer."""
    return _EXPERT.sub("*", name)


def layer_of(name: str) -> int | None:
    """The layer's number in a Hugging Face name; MTP modules come after the decoder's layers."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def is_mtp_copy(name: str) -> bool:
    """Whether a Hugging Face name is an MTP module's copy of the embedding or the head, which ours share."""
    return layer_of(name) is not None and name.split(".", 3)[3] in _MTP_COPIES
