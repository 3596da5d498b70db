"""Process groups over gloo (CPU) or NCCL (CUDA), and the seeds of each rank.

A launcher starts one process per rank with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set; a lone
process needs none of them and opens no port.
"""

import logging
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from infra.errors import ConfigError, R1Error
from modeling import cpu
from training.config import Backend, ParallelConfig
from training.layout import check_world

warnings.filterwarnings("ignore", module=r"(megatron|transformer_engine|apex)\b")
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
logging.getLogger("megatron").setLevel(logging.ERROR)  # the terminal is the user's


def init(cfg: ParallelConfig, seed: int) -> None:
    """Join the process groups and seed every generator. A second call seeds anew and leaves the groups as they are.

    Raises ConfigError where the sizes do not fit the number of processes.
    """
    if not is_initialized():
        _join(cfg)
    seed_all(seed)


def seed_all(seed: int) -> None:
    """Seed torch, numpy, random and Megatron's tracker; data-parallel ranks differ, but for the model's weights."""
    _megatron()
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    rank_seed = seed + 1000 * data_rank()
    random.seed(rank_seed)
    np.random.seed(rank_seed % 2**32)
    # Megatron's tracker knows tensor and expert ranks; stages of a pipeline hold different layers, as its trainer does.
    stage_seed = seed + 100 * _megatron().get_pipeline_model_parallel_rank()
    model_parallel_cuda_manual_seed(stage_seed, force_reset_rng=True)
    torch.manual_seed(rank_seed)


def _megatron() -> ModuleType:
    """Megatron's parallel state. Imported on use: it takes seconds, which a mistyped setting should not cost."""
    cpu.install()
    from megatron.core import parallel_state

    return parallel_state


def _join(cfg: ParallelConfig) -> None:
    size = int(os.environ.get("WORLD_SIZE", 1))
    _check(cfg, size)
    cuda = torch.cuda.is_available() and cfg.backend is not Backend.gloo
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    elif "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))
    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost") and os.path.exists("/sys/class/net/lo"):
        # The host's own name, which gloo would look up, may resolve to nothing inside a container.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, timeout=timedelta(minutes=30))
    _megatron().initialize_model_parallel(
        tensor_model_parallel_size=cfg.tensor,
        pipeline_model_parallel_size=cfg.pipeline,
        virtual_pipeline_model_parallel_size=cfg.virtual_pipeline if cfg.virtual_pipeline > 1 else None,
        context_parallel_size=cfg.context,
        expert_model_parallel_size=cfg.expert,
        expert_tensor_parallel_size=1,
    )


@contextmanager
def unsplit() -> Iterator[None]:
    """Inside, Megatron's groups are those of data parallelism alone: what is built here is whole on each rank.

    Every rank enters together, as the first time the groups are made. Random generators are put back in the end.
    """
    global _data_parallel_alone
    mpu = _megatron()
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    own, generator, tracked = _groups(mpu), torch.get_rng_state(), get_cuda_rng_tracker().get_states()
    try:
        if _is_split() and _data_parallel_alone is None:
            vars(mpu).update({name: {} if isinstance(value, dict) else None for name, value in own.items()})
            mpu.initialize_model_parallel()
            _data_parallel_alone = _groups(mpu)
        elif _is_split():
            vars(mpu).update(_data_parallel_alone)
        yield
    finally:
        vars(mpu).update(own)
        torch.set_rng_state(generator)
        get_cuda_rng_tracker().set_states(tracked)


_data_parallel_alone: dict[str, Any] | None = None
"Megatron's groups inside unsplit(), once they are made."


def _is_split() -> bool:
    """Whether this rank holds a part of the network only, or computes a part of each row."""
    mpu = _megatron()
    names = ("tensor_model", "pipeline_model", "expert_model", "context")
    return any(getattr(mpu, f"get_{name}_parallel_world_size")() > 1 for name in names)


def _groups(mpu: ModuleType) -> dict[str, Any]:
    """Megatron's parallel state: the globals of its module."""
    return {name: value for name, value in vars(mpu).items() if re.fullmatch("_[A-Z_]+", name)}


def _check(cfg: ParallelConfig, size: int) -> None:
    """Raise ConfigError where the layout does not fit `size` processes."""
    if cfg.backend is Backend.nccl and not torch.cuda.is_available():
        raise ConfigError("parallel.backend", "nccl", "needs CUDA", "set parallel.backend=auto")
    check_world(cfg, size)


def is_initialized() -> bool:
    """Whether init has been called."""
    return dist.is_initialized() and _megatron().is_initialized()


def rank() -> int:
    """This process among all."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def data_rank() -> int:
    """This process' place among those that read different data."""
    return _megatron().get_data_parallel_rank() if is_initialized() else 0


def data_size() -> int:
    """Number of shares that the data of a step is cut into."""
    return _megatron().get_data_parallel_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return rank() == 0


def device() -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank has to call it."""
    if world() == 1:
        return flag
    value = torch.tensor([float(flag)], device=device())
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def gather_objects(obj: Any) -> list[Any]:
    """Every rank's object, in the order of ranks, on every rank."""
    if world() == 1:
        return [obj]
    objects: list[Any] = [None] * world()
    dist.all_gather_object(objects, obj)
    return objects


def broadcast_object(obj: Any) -> Any:
    """Rank 0's object on every rank."""
    if world() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(action: Callable[[], None]) -> None:
    """Run action on rank 0 alone; where it fails for a reason a user can mend, every rank raises the same R1Error."""
    problem: str | None = None
    if is_main():
        try:
            action()
        except R1Error as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename or 'the run folder'}: {error.strerror or error}; mend that and start again"
    problem = broadcast_object(problem)
    if problem is not None:
        raise R1Error(problem)
