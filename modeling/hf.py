"""A network in a Hugging Face folder: loaded by ranks of any layout, written by one (names: hf_names.py)."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.errors import CheckpointError, ConfigError
from modeling import cpu, hf_files, hf_names
from modeling.config import CONTEXT_FIELDS, Head, ModelConfig
from modeling.hf_files import CONFIG, INDEX, WEIGHTS, Spec, Stored, some
from modeling.hf_names import Slot
from modeling.vision_config import Vision

__all__ = ["CONFIG", "INDEX", "WEIGHTS", "check_tensors", "config_from", "load_pretrained", "save_pretrained"]

# Fields that two models may differ in and still share weights; a context extension (V3 §4.3) changes the rope's.
_FREE_FIELDS = (
    *"aux_loss_alpha initializer_range dtype modules experts fp8 num_nextn_predict_layers".split(),
    *CONTEXT_FIELDS,
)


def config_from(folder: Path) -> ModelConfig:
    """The config of a Hugging Face folder. Raises CheckpointError for a model that cannot be built here."""
    path = Path(folder) / CONFIG
    hf = hf_files.read_json(path)
    try:
        return ModelConfig.from_hf_dict(hf)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_pretrained(module: nn.Module, cfg: ModelConfig, folder: Path) -> None:
    """Fill the bare network (GPTModel) from a Hugging Face folder; each rank takes its part, tensor by tensor.

    Every rank calls it; dtypes may differ, FP8 is dequantised. An MTP module that cfg leaves out is passed over; a
    network that scores takes a language model's weights and keeps its own head, one that sees keeps its own eyes where
    the folder has none. Raises CheckpointError, before a weight has changed, that lists what differs: settings, or
    tensors missing, left over or of another shape.
    """
    folder = Path(folder)
    saved = config_from(folder)
    new_head = cfg.head is Head.score and saved.head is Head.tokens
    new_eyes = cfg.vision is not Vision.none and saved.vision is Vision.none
    free = (*_FREE_FIELDS, *(("head",) if new_head else ()), *(("vision",) if new_eyes else ()))
    differ = [
        f"{f.name}={getattr(saved, f.name)} (here {getattr(cfg, f.name)})"
        for f in fields(cfg)
        if f.name not in free and getattr(saved, f.name) != getattr(cfg, f.name)
    ]
    if differ:
        if saved.head is not cfg.head and not new_head:
            raise CheckpointError(f"{folder}: is a reward model, which writes no text; give a language model")
        raise CheckpointError(f"{folder}: another model: {', '.join(differ)}; set the same under model")
    stored = hf_files.headers(folder)
    check_tensors(folder, stored, cfg, saved)
    rank = _tensor_rank() if module.config.tensor_model_parallel_size > 1 else 0
    wanted: dict[str, list[Slot]] = {}
    for slot in _slots(module, cfg):
        own = (new_head and slot.name == hf_names.SCORE) or (new_eyes and slot.name.startswith(hf_names.VISION))
        if not own:
            wanted.setdefault(slot.name, []).append(slot)  # two, where a pipeline stage holds a copy
    with torch.no_grad():
        for tensor, value in hf_files.read(stored[name] for name in wanted):
            for slot in wanted[tensor.name]:
                slot.fill(value, rank)


def save_pretrained(
    module: nn.Module, cfg: ModelConfig, folder: Path, max_shard_bytes: int = hf_files.SHARD_BYTES
) -> None:
    """Write the bare network (GPTModel), whole on this rank, as a Hugging Face folder; rank 0 writes, others return.

    The folder appears whole, by renaming, and replaces a model that was there with all its files. No file exceeds
    max_shard_bytes, but for one with a single larger tensor. Raises CheckpointError where it cannot be written; what
    was there before is untouched then.
    """
    for key in ("tensor", "pipeline", "expert"):
        size = getattr(module.config, f"{key}_model_parallel_size")
        if size > 1:
            raise CheckpointError(
                f"{folder}: parallel.{key}={size}: a split model is saved as a checkpoint, which r1 export writes as a "
                f"Hugging Face folder; to write one here set parallel.{key}=1"
            )
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    slots = {slot.name: slot for slot in _slots(module, cfg)}
    specs = {name: Spec(slot.shape, slot.part.dtype) for name, slot in slots.items()}

    def values(names: list[str]) -> Iterable[tuple[str, Tensor]]:
        return ((name, slots[name].content()) for name in names)

    hf_files.write(folder, cfg.to_hf_dict(), specs, values, max_shard_bytes=max_shard_bytes)


def _slots(module: nn.Module, cfg: ModelConfig) -> Iterator[Slot]:
    """A slot for each Hugging Face tensor that this rank holds, or holds a part of."""
    cpu.install()
    from megatron.core import parallel_state

    size = module.config.expert_model_parallel_size
    first = parallel_state.get_expert_model_parallel_rank() * (cfg.n_routed_experts // size) if size > 1 else 0
    split = module.config.tensor_model_parallel_size > 1
    numbers = {f"decoder.layers.{i}.": layer.layer_number - 1 for i, layer in enumerate(module.decoder.layers)}
    parameters = dict(module.named_parameters())
    for name, tensor in module.state_dict().items():
        if name.endswith("_extra_state"):  # Transformer Engine's, not weights
            continue
        parameter = parameters.get(name)
        dim = None
        if split and ".experts." not in name and getattr(parameter, "tensor_model_parallel", False):
            dim = parameter.partition_dim
        # A pipeline stage numbers its layers from 0.
        prefix = ".".join(name.split(".", 3)[:3]) + "."
        whole = f"decoder.layers.{numbers[prefix]}.{name.removeprefix(prefix)}" if prefix in numbers else name
        try:
            yield from hf_names.slots(whole, tensor, cfg, first_expert=first, dim=dim)
        except KeyError:
            raise CheckpointError(f"{name}: has no Hugging Face name; set model.modules=local") from None


def _tensor_rank() -> int:
    from megatron.core import parallel_state

    return parallel_state.get_tensor_model_parallel_rank()


def check_tensors(folder: Path, stored: dict[str, Stored], cfg: ModelConfig, saved: ModelConfig) -> None:
    """Raise CheckpointError that lists tensors missing, left over, misshapen or of a type that cannot be read.

    cfg may leave out MTP modules of the folder, whose own config is `saved`.
    """
    expected = hf_names.expected(replace(cfg, vision=saved.vision))
    if saved.head is not cfg.head:
        del expected[hf_names.SCORE]
    layers = cfg.num_hidden_layers
    left_out = range(layers + cfg.num_nextn_predict_layers, layers + saved.num_nextn_predict_layers)
    missing = [name for name in expected if name not in stored]
    extra = [
        name
        for name in stored
        if name not in expected and not hf_names.is_spare(name, cfg) and hf_names.layer_of(name) not in left_out
    ]
    both = [(stored[name], shape) for name, shape in expected.items() if name in stored]
    shapes = [f"{found.name} {found.shape} (here {shape})" for found, shape in both if found.shape != shape]
    unread = [f"{found.name} {found.format}" for found, _ in both if found.dtype is None]
    problems = {
        "missing": missing,
        "left over": extra,
        "of another shape": shapes,
        "quantised without scales of their blocks": unread,
    }
    listed = [f"{len(found)} {what}: {some(found)}" for what, found in problems.items() if found]
    if not listed:
        return
    remedy = "give a folder whose config.json and weights belong together"
    if unread:
        remedy = "give the weights in BF16, or FP8 with _scale_inv of 128 x 128 blocks"
    elif missing and all((hf_names.layer_of(name) or 0) >= layers for name in missing):
        remedy = "set model.num_nextn_predict_layers=0, the folder has no MTP module"
    raise CheckpointError(f"{folder}: does not fit this model: {'; '.join(listed)}; {remedy}")
