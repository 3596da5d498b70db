"""Weights of published vision encoders (CLIP's and SigLIP's Hugging Face folders) for Megatron's vision transformer."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from infra.errors import CheckpointError
from modeling import hf_files

_MODEL = {
    "conv1": "embeddings.patch_embedding",
    "position_embeddings": "embeddings.position_embedding",
    "ln_pre": "pre_layrnorm",  # spelt so in CLIP's files
    "ln_post": "post_layernorm",
}
_LAYER = {
    "input_layernorm": "layer_norm1",
    "self_attention.linear_proj": "self_attn.out_proj",
    "pre_mlp_layernorm": "layer_norm2",
    "mlp.linear_fc1": "mlp.fc1",
    "mlp.linear_fc2": "mlp.fc2",
}
_QKV = "self_attention.linear_qkv"


def load_encoder(encoder: nn.Module, folder: Path) -> None:
    """Fill a CLIPViTModel (VisionTower.encoder) from a folder of CLIP or SigLIP, or of their vision part alone.

    Raises CheckpointError, before a weight has changed, where tensors are missing or of another shape.
    """
    stored = hf_files.headers(folder)
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in stored) else ""
    heads = encoder.config.num_attention_heads
    parameters = dict(encoder.named_parameters())
    sources = {name: [prefix + source for source in _sources(name)] for name in parameters}
    missing = [source for names in sources.values() for source in names if source not in stored]
    if missing:
        problem = f"has no {hf_files.some(missing)}"
        raise CheckpointError(f"{folder}: {problem}; give a CLIP or SigLIP model of the shape captions.vision")
    wanted = [stored[source] for names in sources.values() for source in names]
    values = {tensor.name: value.clone() for tensor, value in hf_files.read(wanted)}
    new = {name: _joined([values[source] for source in names], heads) for name, names in sources.items()}
    for name, value in new.items():
        if value.numel() != parameters[name].numel():
            shapes = f"{tuple(value.shape)} (here {tuple(parameters[name].shape)})"
            raise CheckpointError(f"{folder}: {sources[name][0]} is {shapes}; set captions.vision to its shape")
    with torch.no_grad():
        for name, value in new.items():
            parameters[name].copy_(value.reshape(parameters[name].shape))


def _sources(name: str) -> list[str]:
    """The Hugging Face tensors of a parameter: one, or those of query, key and value."""
    if name == "class_token":
        return ["embeddings.class_embedding"]
    module, part = name.rsplit(".", 1)
    layer = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", module)
    if layer is None:
        return [f"{_MODEL[module]}.{part}"]
    own = [f"self_attn.{which}_proj" for which in "qkv"] if layer[2] == _QKV else [_LAYER[layer[2]]]
    return [f"encoder.layers.{layer[1]}.{which}.{part}" for which in own]


def _joined(values: list[Tensor], heads: int) -> Tensor:
    """One tensor as it is; of three, the rows head by head: its query, its key, its value."""
    if len(values) == 1:
        return values[0]
    return torch.stack([value.unflatten(0, (heads, -1)) for value in values], 1).flatten(0, 2)
