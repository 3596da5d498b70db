"""A training checkpoint written as a Hugging Face folder, one shard in memory, whatever layout it was saved in."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from infra.errors import CheckpointError
from modeling import hf_convert, hf_files, hf_names
from modeling.build import build_model
from modeling.config import DType, Experts, ModelConfig, Modules
from modeling.hf_names import Slot
from modeling.meta import on_meta
from modeling.tokenizer import Tokenizer
from training import checkpoint, parallel, storage
from training.config import ParallelConfig
from training.shards import Shards


def export_checkpoint(
    path: Path,
    out: Path,
    *,
    dtype: DType | None = None,
    fp8: bool = False,
    max_shard_bytes: int = hf_files.SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ModelConfig:
    """Write the run, checkpoint or Hugging Face folder `path` to `out`, tokenizer included; -> the model's config.

    One process calls it. dtype None keeps each tensor's type. Raises CheckpointError where there are no weights, or
    where `out` cannot be written.
    """
    found = checkpoint.resolve(path)
    if not (found / "meta.json").exists():
        kept = dict(dtype=dtype, fp8=fp8, max_shard_bytes=max_shard_bytes, progress=progress)
        return hf_convert.convert(found, out, **kept)
    cfg = checkpoint.model_config(found)
    tokenizer = Tokenizer.load(found)
    kind = json.loads((found / "meta.json").read_text())["kind"]
    source = _Sharded(found, cfg) if kind == "sharded" else _Plain(found, cfg)
    slots = source.slots(None)
    specs = hf_convert.specs_of({name: (slot.shape, slot.part.dtype) for name, slot in slots.items()}, dtype, fp8)
    specs = {name: specs[name] for name in hf_names.expected(cfg)}

    def values(names: list[str]) -> Iterable[tuple[str, Tensor]]:
        held = source.slots(names)
        return ((name, held[name].content()) for name in names)

    settings = cfg.to_hf_dict() | hf_convert.settings_of(specs, fp8)
    kept = dict(max_shard_bytes=max_shard_bytes, beside=tokenizer.save, done=progress)
    hf_files.write(out, settings, specs, values, **kept)
    return cfg


def as_folder(path: Path, scratch: Path) -> Path:
    """A Hugging Face folder of the model in `path`, which a network with another head can start from.

    A training checkpoint is written as one first, to the folder scratch, unless its run has left one. Every rank calls
    it. Raises CheckpointError for a checkpoint in parts.
    """
    found = checkpoint.resolve(path)
    if not (found / "meta.json").exists():
        return found
    exported = found.parent.parent / "model"  # what a finished run left is that checkpoint in another form
    if (exported / "config.json").exists():
        return exported
    if json.loads((found / "meta.json").read_text())["kind"] != "plain":
        raise CheckpointError(
            f"{found}: is in parts; write it as one folder first: r1 export checkpoint={found} out=..."
        )
    if not parallel.broadcast_object((scratch / "config.json").exists()):
        parallel.on_main(lambda: export_checkpoint(found, scratch))
    return scratch


class _Plain:
    """model.pt, mapped to memory anew for each shard, so that what was read before can go."""

    def __init__(self, folder: Path, cfg: ModelConfig) -> None:
        self.path, self.cfg = folder / storage.MODEL, cfg

    def slots(self, names: list[str] | None) -> dict[str, Slot]:
        """Every slot."""
        tensors = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        return {s.name: s for name, tensor in tensors.items() for s in hf_names.slots(name, tensor, self.cfg)}


class _Sharded:
    """Megatron's shards, read for the tensors at hand only; a network without memory says what there is."""

    def __init__(self, folder: Path, cfg: ModelConfig) -> None:
        parallel.init(ParallelConfig(), seed=0)
        # An expert a tensor: stacked experts of a layer could be larger than a shard.
        cfg = dataclasses.replace(cfg, experts=Experts.sequential, modules=Modules.local)
        with on_meta():
            module = build_model(cfg)
        self.cfg, self.state = cfg, storage.sharded_weights(module)["0"]
        self.shards = Shards(folder / storage.SHARDS)
        tensors = ((name, tensor) for name, tensor in module.state_dict().items() if torch.is_tensor(tensor))
        self.there = {s.name: (name, s) for name, tensor in tensors for s in hf_names.slots(name, tensor, cfg)}

    def slots(self, names: list[str] | None) -> dict[str, Slot]:
        """The slots of these names with their values; without names all, on the meta device."""
        if names is None:
            return {name: slot for name, (_, slot) in self.there.items()}
        found = self.shards.read({owner: self.state[owner] for owner in (self.there[name][0] for name in names)})
        return {s.name: s for name, tensor in found.items() for s in hf_names.slots(name, tensor, self.cfg)}
