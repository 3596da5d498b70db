"""The whole network out of the ranks' parts, and back: what decoding reads, and what is kept of a reference policy.

A weight is known by the name and the place in it that Megatron's sharded checkpoints give; no layout changes them. This
is for networks that fit on each rank; larger ones go through checkpoints.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.errors import ConfigError
from modeling.build import build_model
from modeling.config import DType, ModelConfig
from training import parallel, storage
from training.config import ParallelConfig
from training.state import TrainState, build_state

from megatron.core.dist_checkpointing.dict_utils import nested_values  # isort: skip  -- after the CPU layer
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories, is_main_replica  # isort: skip


class Whole:
    """The network in one piece on this rank. Where the layout leaves it whole this is the very network, at no cost."""

    def __init__(
        self, module: nn.Module, cfg: ModelConfig, *, copies: bool = False, device: torch.device | None = None
    ) -> None:
        """module: this rank's part; every rank calls it. copies: have weights of its own in any case, on `device`."""
        self.module = module
        if copies or storage.is_part(module):
            self.module = build_whole(cfg, device)
            self.module.requires_grad_(False)
            self.refresh(module)

    def refresh(self, module: nn.Module) -> None:
        """Take over the weights of all parts as they are now. Every rank calls it."""
        if self.module is not module:
            fill(self.module, gather(module))


def build_whole(cfg: ModelConfig, device: torch.device | None = None) -> nn.Module:
    """A network that this rank holds alone, whatever the layout, on its own device by default. Every rank calls it.

    Raises ConfigError, on every rank, where one of them has no room for it.
    """
    if not fits(cfg):
        problem = "a rank has no room for a whole one, which it takes here"
        raise ConfigError("model", f"{_num_bytes(cfg) / 2**30:.1f} GiB", problem, "take a smaller model")
    with parallel.unsplit():
        return build_model(cfg).to(device or parallel.device())


def fits(cfg: ModelConfig) -> bool:
    """Whether every rank has room for a whole network beside what it holds. Every rank calls it."""
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    else:  # ranks of a machine share its memory
        free = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return not parallel.any_rank(_num_bytes(cfg) > free)


def _num_bytes(cfg: ModelConfig) -> int:
    return cfg.num_params(mtp=True) * (2 if cfg.dtype is DType.bf16 else 4)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rank's part belongs."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    whole: torch.Size
    at: tuple[int | slice, ...]


@torch.no_grad()
def gather(module: nn.Module) -> dict[str, Tensor]:
    """Name -> whole tensor of every parameter and expert bias, the same on every rank; every rank calls it."""
    weights: dict[str, Tensor] = {}
    for place, part in _all_parts(_parts(module), storage.is_part(module)):
        if place.name not in weights:
            weights[place.name] = part.new_empty(place.whole)
        weights[place.name][place.at] = part
    return weights


@torch.no_grad()
def fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy into the network, or this rank's part of it, from what gather gave in this layout or another."""
    for part in _parts(module):
        part.data.copy_(weights[part.key][part.global_slice()])


def read_plain(state: TrainState, folder: Path, scratch: Path) -> None:
    """Fill a split state from a checkpoint of ranks that each held everything (storage.write_plain).

    It is written anew in parts, to the folder scratch, which is removed in the end. Every rank calls it.
    """
    with parallel.unsplit():
        alone = ParallelConfig(zero1=state.parallel_cfg.zero1)
        whole = build_state(state.model_cfg, state.optimizer_cfg, alone, stage=state.stage)
        storage.read_plain(whole, folder)
        parallel.on_main(lambda: scratch.mkdir(parents=True, exist_ok=True))
        storage.write_sharded(whole, scratch)
    parallel.barrier()
    storage.read_sharded(state, scratch)
    parallel.barrier()
    parallel.on_main(lambda: shutil.rmtree(scratch))


def read_weights(module: nn.Module, cfg: ModelConfig, read: Callable[[nn.Module], None]) -> None:
    """Fill the network, or this rank's part of it, by a function that fills a whole one. Every rank calls it."""
    if not storage.is_part(module):
        read(module)
        return
    whole = build_whole(cfg)
    read(whole)
    fill(module, gather(whole))


def _parts(module: nn.Module) -> list[ShardedTensor]:
    """Views of this rank's weights, each with its name and its place."""
    sharded = storage.sharded_weights(module)
    apply_factories(sharded)
    return [value for value in nested_values(sharded) if isinstance(value, ShardedTensor)]


def _all_parts(own: list[ShardedTensor], split: bool) -> Iterator[tuple[_Place, Tensor]]:
    """Every part of the network once, from whichever rank has it; each rank in turn sends its own, a type at a time."""
    if split:
        own = [part for part in own if is_main_replica(part.replica_id)]
    tensors = [part.data for part in own]
    places = [
        _Place(p.key, p.dtype, torch.Size(p.local_shape), torch.Size(p.global_shape), p.global_slice()) for p in own
    ]
    if not split:
        yield from zip(places, tensors, strict=True)
        return
    for rank, theirs in enumerate(parallel.gather_objects(places)):
        for dtype in dict.fromkeys(place.dtype for place in theirs):
            sent = [place for place in theirs if place.dtype is dtype]
            sizes = [place.shape.numel() for place in sent]
            flat = torch.empty(sum(sizes), dtype=dtype, device=parallel.device())
            if rank == parallel.rank():
                torch.cat([t.flatten() for t in tensors if t.dtype is dtype], out=flat)
            dist.broadcast(flat, src=rank)
            for place, value in zip(sent, flat.split(sizes), strict=True):
                yield place, value.view(place.shape)
