"""How the tensors of a checkpoint lie in its folder: as plain files, or sharded by Megatron's dist_checkpointing.

Plain, where every rank holds everything: rank 0 writes model.pt and optimizer.pt, in milliseconds. Sharded else:
every rank writes its part, and any other layout can read it; that costs seconds.
"""

import hashlib
import os
import queue
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import CheckpointError
from training import parallel
from training.chunks import chunks
from training.optimizer import chained
from training.state import TrainState

from megatron.core import dist_checkpointing, parallel_state  # isort: skip  -- after the CPU layer
from megatron.core.dist_checkpointing.core import CheckpointingException  # isort: skip
from megatron.core.dist_checkpointing.strategies import filesystem_async  # isort: skip
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # isort: skip

_MASTERS = "fp32_from_fp16_params"
"Megatron's key of the FP32 masters of BF16 weights."
MODEL, OPTIMIZER, RANKS, SHARDS = "model.pt", "optimizer.pt", "ranks.pt", "shards"


class _HashingFile:
    """A file that hashes what passes and keeps the first error: raised inside torch's C++ writer it would abort."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        self.digest.update(data)
        return len(memoryview(data))

    def flush(self) -> None: ...


def write_file(path: Path, obj: Any) -> dict[str, Any]:
    """torch.save to path, safely on disk when it returns; -> {"size": bytes, "sha256": hex}. Raises OSError."""
    with open(path, "wb") as raw:
        file = _HashingFile(raw)
        torch.save(obj, file)
        if file.error is not None:
            raise file.error
        sync(raw)
    return {"size": path.stat().st_size, "sha256": file.digest.hexdigest()}


def sync(file: Any) -> None:
    """Have the operating system put the file on disk."""
    file.flush()
    os.fsync(file.fileno())


def read_file(path: Path) -> Any:
    """What write_file wrote; tensors and plain types only, so that a checkpoint cannot run code."""
    return torch.load(path, map_location="cpu", weights_only=True)


def write_plain(state: TrainState, folder: Path) -> dict[str, dict[str, Any]]:
    """Model and optimiser as plain files, on rank 0; -> size and hash of each."""
    return {
        MODEL: write_file(folder / MODEL, _tensors(state.module)),
        OPTIMIZER: write_file(folder / OPTIMIZER, state.optimizer.state_dict()),
    }


def read_plain(state: TrainState, folder: Path) -> None:
    """Fill model and optimiser from plain files."""
    read_plain_weights(state.module, folder)
    state.optimizer.load_state_dict(read_file(folder / OPTIMIZER))


def read_plain_weights(module: nn.Module, folder: Path) -> None:
    """Fill the network from model.pt. Raises CheckpointError where names or shapes differ."""
    saved, own = read_file(folder / MODEL), _tensors(module)
    differ = [
        f"{name} {tuple(saved[name].shape) if name in saved else 'missing'}"
        f" (here {tuple(own[name].shape) if name in own else 'missing'})"
        for name in sorted(saved.keys() | own.keys())
        if name not in saved or name not in own or saved[name].shape != own[name].shape
    ]
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise CheckpointError(f"{folder}: another model's weights: {', '.join(differ[:3])}{more}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def write_sharded(state: TrainState, folder: Path) -> None:
    """Model and optimiser, every rank its part. Every rank calls it."""
    (folder / SHARDS).mkdir(exist_ok=True)
    parallel.barrier()
    for part in chained(state.optimizer):
        if not part.is_stub_optimizer and not part.optimizer.state:
            part.init_state_fn(part.optimizer, part.config)
    # We save in this process. Megatron's own queue is another process: 5 s to start, 650 MB, and it outlives a kill.
    filesystem_async._results_queue = queue.Queue()
    with _quiet():
        dist_checkpointing.save(_sharded(state, is_loading=False), str(folder / SHARDS))


def read_sharded(state: TrainState, folder: Path) -> None:
    """Fill model and optimiser, in whatever layout they were saved. Every rank calls it."""
    loaded = _load_shards(_sharded(state, is_loading=True), folder)
    _load_weights(state.module, loaded["model"])
    for part, optimizer in zip(_parts(loaded["optimizer"], state), chained(state.optimizer), strict=True):
        # A stage without experts has no state of theirs, and what is empty is not in the files.
        part.get("optimizer", part).setdefault("state", {})
        if groups := getattr(optimizer, "fp32_from_float16_groups", []):
            found = part.get(_MASTERS, {})
            part[_MASTERS] = [[found[g][i] for i in range(len(group))] for g, group in enumerate(groups)]
    state.optimizer.load_state_dict(loaded["optimizer"])


def read_sharded_weights(module: nn.Module, folder: Path) -> None:
    """Fill the network alone. Every rank calls it."""
    loaded = _load_shards({"model": sharded_weights(module)}, folder)
    _load_weights(module, loaded["model"])


def sharded_weights(module: nn.Module) -> dict[str, Any]:
    """Megatron's description of this rank's weights: names and places in the whole network, by number of the stage."""
    with nullcontext() if is_part(module) else parallel.unsplit():
        return {str(i): chunk.sharded_state_dict(metadata=metadata()) for i, chunk in enumerate(chunks(module))}


def is_part(module: nn.Module) -> bool:
    """Whether other ranks hold other parts of the network; a whole one may stand beside it, for decoding."""
    cfg = module.config
    return cfg.tensor_model_parallel_size * cfg.pipeline_model_parallel_size * cfg.expert_model_parallel_size > 1


def _load_weights(module: nn.Module, loaded: dict[str, Any]) -> None:
    for i, chunk in enumerate(chunks(module)):
        chunk.load_state_dict(loaded[str(i)])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch tells Megatron's developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load_shards(wanted: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        with _quiet():
            return dist_checkpointing.load(wanted, str(folder / SHARDS))
    except (CheckpointingException, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder}: does not fit this model: {str(error).splitlines()[0]}") from error


def _sharded(state: TrainState, is_loading: bool) -> dict[str, Any]:
    model = sharded_weights(state.module)
    optimizer = state.optimizer.sharded_state_dict(model, is_loading, metadata=metadata())
    for part in _parts(optimizer, state):
        if _MASTERS in part:  # lists have to be as long on every stage, in Megatron's eyes
            part[_MASTERS] = {g: dict(enumerate(group)) for g, group in enumerate(part[_MASTERS])}
    return {"model": model, "optimizer": optimizer}


def _parts(optimizer: dict[Any, Any], state: TrainState) -> list[dict[str, Any]]:
    """The state of each optimizer of the chain, in order."""
    return [optimizer[i] for i in sorted(optimizer)] if len(chained(state.optimizer)) > 1 else [optimizer]


def metadata() -> dict[str, Any]:
    """Megatron's settings under which optimiser state fits every layout."""
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "singleton_local_shards": False,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and kept buffers (the expert bias); Megatron's extra states are empty here."""
    return {name: value for name, value in module.state_dict().items() if torch.is_tensor(value)}


def num_bytes(state: TrainState) -> int:
    """About how much a checkpoint takes on disk, in bytes, over all ranks."""
    tensors = list(_tensors(state.module).values())
    for part in chained(state.optimizer):
        if not part.is_stub_optimizer:
            tensors += [t for values in part.optimizer.state.values() for t in values.values() if torch.is_tensor(t)]
    own = sum(t.numel() * t.element_size() for t in tensors)
    return own if state.parallel_cfg.replicated else own * parallel.world()


def generators() -> dict[str, Any]:
    """The state of this rank's random generators, in plain types."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
        "megatron": dict(get_cuda_rng_tracker().get_states()),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Put back what generators() gave."""
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
    get_cuda_rng_tracker().set_states(states["megatron"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
