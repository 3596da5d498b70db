"""Hugging Face folders: config.json and *.safetensors, read and written one tensor at a time (names: hf_names.py).

They are data, never code: a folder with pickled weights only is refused.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.errors import CheckpointError, ConfigError
from modeling import cpu, hf_names
from modeling.config import ModelConfig

CONFIG, WEIGHTS, INDEX = ("config.json", "model.safetensors", "model.safetensors.index.json")
_FLOATS = ("F64", "F32", "F16", "BF16")
# Fields that two models may differ in and still share weights; a context extension (V3 §4.3) changes the rope's.
_FREE_FIELDS = (
    "aux_loss_alpha initializer_range dtype modules experts fp8 max_position_embeddings num_nextn_predict_layers "
    "rope_factor rope_original_max_position_embeddings rope_beta_fast rope_beta_slow rope_mscale rope_mscale_all_dim"
).split()
# Settings of config.json that ModelConfig has no field for, with the values under which it computes the same.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "moe_layer_freq": (1,),
    "rope_interleave": (True,),
}


def config_from(folder: Path) -> ModelConfig:
    """The config of a Hugging Face folder. Raises CheckpointError for one that is no DeepSeek model we can build."""
    path = Path(folder) / CONFIG
    hf = _read_json(path)
    differ = [f"{key}={hf[key]}" for key, fit in _FIXED.items() if hf.get(key) is not None and hf[key] not in fit]
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        differ.append(f"rope_type={kind}")
    if differ:
        raise CheckpointError(f"{path}: {', '.join(differ)} cannot be built here; give another model")
    try:
        cfg = ModelConfig.from_hf_dict(hf)
    except (ConfigError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if hf.get("norm_topk_prob") is not None and hf["norm_topk_prob"] != cfg.has_expert_bias:
        raise CheckpointError(
            f"{path}: norm_topk_prob={hf['norm_topk_prob']} with scoring_func={cfg.scoring_func.name} cannot be built "
            "here; give another model"
        )
    return cfg


def load_pretrained(module: nn.Module, cfg: ModelConfig, folder: Path) -> None:
    """Fill the bare network (GPTModel) from a Hugging Face folder; each rank takes its own experts.

    Every rank calls it; dtypes may differ. An MTP module that cfg leaves out is passed over. Raises CheckpointError,
    before a weight has changed, that lists what differs: settings, or tensors missing, left over or of another shape.
    """
    folder = Path(folder)
    _check_layout(module, folder, ("tensor", "pipeline"))
    saved = config_from(folder)
    differ = [
        f"{f.name}={getattr(saved, f.name)} (here {getattr(cfg, f.name)})"
        for f in fields(cfg)
        if f.name not in _FREE_FIELDS and getattr(saved, f.name) != getattr(cfg, f.name)
    ]
    if differ:
        raise CheckpointError(f"{folder}: another model: {', '.join(differ)}; set the same under model")
    views = _views(module, cfg)
    stored = _stored(folder)
    _check_tensors(folder, views, stored, cfg, saved)
    by_file: dict[Path, list[str]] = {}
    for name in views:
        by_file.setdefault(stored[name].file, []).append(name)
    for path, names in by_file.items():
        with _open(path) as file, torch.no_grad():
            for name in names:
                views[name].copy_(file.get_tensor(name))


def save_pretrained(module: nn.Module, cfg: ModelConfig, folder: Path, max_shard_bytes: int = 2 * 2**30) -> None:
    """Write the bare network (GPTModel), whole on this rank, as a Hugging Face folder; rank 0 writes, others return.

    The folder appears whole, by renaming, and replaces a model that was there with all its files. No file exceeds
    max_shard_bytes, but for one with a single larger tensor. Raises CheckpointError where it cannot be written; what
    was there before is untouched then.
    """
    folder = Path(folder).absolute()
    _check_layout(module, folder, ("tensor", "pipeline", "expert"))
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    if folder.exists() and not (folder / CONFIG).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: holds something else than a model and is left alone; choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(_views(module, cfg), cfg, partial, max_shard_bytes)
        _replace(folder, partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        remedy = "; free some space and start again" if full else "; choose another folder"
        raise CheckpointError(f"{folder}: cannot write the model: {error}{remedy}") from error


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a tensor lies, as its file's header says."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """Safetensors' name, as in "BF16" or "F8_E4M3"."""


def _views(module: nn.Module, cfg: ModelConfig) -> dict[str, Tensor]:
    """Hugging Face name -> view of the parameter, for what this rank holds."""
    cpu.install()
    from megatron.core import parallel_state

    size = module.config.expert_model_parallel_size
    first = parallel_state.get_expert_model_parallel_rank() * (cfg.n_routed_experts // size) if size > 1 else 0
    views: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("_extra_state"):  # Transformer Engine's, not weights
            continue
        try:
            views |= hf_names.pairs(name, tensor, num_layers=cfg.num_hidden_layers, first_expert=first)
        except KeyError:
            raise CheckpointError(f"{name}: has no Hugging Face name; set model.modules=local") from None
    return views


def _check_layout(module: nn.Module, folder: Path, keys: tuple[str, ...]) -> None:
    """Raise CheckpointError where ranks share the model in a way that cannot be read or written yet."""
    for key in keys:
        size = getattr(module.config, f"{key}_model_parallel_size")
        if size > 1:
            raise CheckpointError(
                f"{folder}: parallel.{key}={size}: a Hugging Face folder is for a model that is not split so; "
                f"set parallel.{key}=1"
            )


def _stored(folder: Path) -> dict[str, _Stored]:
    """Every tensor of the folder, from the headers alone."""
    if (folder / INDEX).exists():
        shards = _read_json(folder / INDEX).get("weight_map")
        names = shards.values() if isinstance(shards, dict) else [None]
        # A file name from outside must not lead out of the folder.
        if not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise CheckpointError(f"{folder / INDEX}: has no weight_map of file names; fetch the folder again")
        files = sorted({folder / name for name in names})
    else:
        files = [folder / WEIGHTS]
    absent = [file.name for file in files if not file.exists()]
    if absent:
        pickled = "; pickled weights can run code and are not read" if any(folder.glob("*.bin")) else ""
        raise CheckpointError(f"{folder}: {_some(absent)} not there; fetch the safetensors files again{pickled}")
    stored = {}
    for path in files:
        with _open(path) as file:
            for name in file.keys():
                header = file.get_slice(name)
                stored[name] = _Stored(path, tuple(header.get_shape()), header.get_dtype())
    return stored


def _check_tensors(
    folder: Path, views: dict[str, Tensor], stored: dict[str, _Stored], cfg: ModelConfig, saved: ModelConfig
) -> None:
    """Raise CheckpointError that lists tensors missing, left over, misshapen or quantised."""
    layers = cfg.num_hidden_layers
    depths = (layers + cfg.num_nextn_predict_layers, layers + saved.num_nextn_predict_layers)
    all_experts = {hf_names.without_expert(name) for name in views}

    def elsewhere(name: str) -> bool:
        """Whether another rank has it, or it repeats what is shared, or cfg leaves its MTP module out."""
        layer = hf_names.layer_of(name) or 0
        expert = hf_names.expert_of(name)
        other_rank = (
            expert is not None and expert < cfg.n_routed_experts and hf_names.without_expert(name) in all_experts
        )
        copy = layers <= layer < depths[0] and hf_names.is_mtp_copy(name)
        return other_rank or copy or depths[0] <= layer < depths[1]

    missing = [name for name in views if name not in stored]
    extra = [name for name in stored if name not in views and not elsewhere(name)]
    both = [(name, stored[name], tuple(view.shape)) for name, view in views.items() if name in stored]
    shapes = [f"{name} {found.shape} (here {own})" for name, found, own in both if found.shape != own]
    quantised = [f"{name} {found.dtype}" for name, found, _ in both if found.dtype not in _FLOATS]
    problems = {"missing": missing, "left over": extra, "of another shape": shapes, "quantised": quantised}
    listed = [f"{len(found)} {what}: {_some(found)}" for what, found in problems.items() if found]
    if not listed:
        return
    remedy = "give a folder whose config.json and weights belong together"
    if quantised:
        remedy = "cast the weights to BF16 first"
    elif missing and all((hf_names.layer_of(name) or 0) >= layers for name in missing):
        remedy = "set model.num_nextn_predict_layers=0, the folder has no MTP module"
    raise CheckpointError(f"{folder}: does not fit this model: {'; '.join(listed)}; {remedy}")


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _write(views: dict[str, Tensor], cfg: ModelConfig, folder: Path, max_shard_bytes: int) -> None:
    """config.json and the weights, in one file or in shards with their index."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, view in views.items():
        if shards[-1] and view.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= view.nbytes
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        files = [WEIGHTS]
    for file, names in zip(files, shards, strict=True):
        # Clones: safetensors refuses tensors that share memory, as the halves of one do.
        tensors = {n: views[n].detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for n in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_json(
            folder / INDEX, {"metadata": {"total_size": sum(v.nbytes for v in views.values())}, "weight_map": where}
        )
    _write_json(folder / CONFIG, cfg.to_hf_dict())


def _replace(folder: Path, partial: Path) -> None:
    """Put partial, safe on disk, in the place of folder."""
    for path in partial.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped to memory. Raises CheckpointError for one that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); fetch or write it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give a Hugging Face folder (config.json, *.safetensors)"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is no JSON object; give a Hugging Face folder (config.json, *.safetensors)")
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
