"""What each part of an RL stage takes of a rank's memory, measured: PPO's value model is what GRPO saves (DSM §4.1)."""

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rl.policy import Reference, weights_of
from training.chunks import chunks
from training.optimizer import chained
from training.state import TrainState

_GIB = 2**30


class Activations:
    """Bytes that autograd holds for the backward pass; peak is the most at a time. Weights are not among them."""

    def __init__(self, state: TrainState) -> None:
        self.peak = self._live = 0
        self._weights = {_key(tensor) for network in _networks(state) for _, tensor in weights_of(network.module)}
        self._holders: dict[int, int] = {}

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Inside, what is saved for backward is counted; nothing is copied, so results stay the same."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor):
            yield

    def _pack(self, tensor: Tensor) -> "_Held":
        return _Held(tensor, self)

    def hold(self, tensor: Tensor, change: int) -> None:
        """One holder more or less of the tensor's storage."""
        key = _key(tensor)
        if key in self._weights:
            return
        before = self._holders.get(key, 0)
        self._holders[key] = before + change
        if before == 0 or before + change == 0:
            self._live += change * tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self._live)
        if before + change == 0:
            del self._holders[key]


class _Held:
    """A tensor saved for backward; autograd drops it once it is used."""

    def __init__(self, tensor: Tensor, meter: Activations) -> None:
        self.tensor, self.meter = tensor, meter
        meter.hold(tensor, 1)

    def __del__(self) -> None:
        self.meter.hold(self.tensor, -1)


def memory_by_part(state: TrainState, reference: Reference | None, activations: Activations) -> dict[str, float]:
    """memory/<part>_gib of this rank, after a step: policy, reference, critic (weights), optimizer, gradients (of all
    networks), activations, and peak: the most that the process has held so far, on CUDA what torch had allocated."""
    own = [tensor for network in _networks(state) for _, tensor in weights_of(network.module)]
    parts = {
        "policy": _bytes(tensor for _, tensor in weights_of(state.module)),
        "reference": _bytes(reference.weights) if reference is not None else 0,
        "critic": sum(_bytes(t for _, t in weights_of(critic.module)) for critic in state.beside.values()),
        "optimizer": _bytes(_optimizer_tensors(state), besides=own),
        "gradients": _bytes(_gradient_buffers(state)),
        "activations": activations.peak,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_peak(),
    }
    return {f"memory/{part}_gib": size / _GIB for part, size in parts.items()}


def _networks(state: TrainState) -> list[TrainState]:
    return [state, *state.beside.values()]


def _optimizer_tensors(state: TrainState) -> Iterator[Tensor]:
    """Moments, and the FP32 masters where the weights are BF16."""
    for network in _networks(state):
        for part in chained(network.optimizer):
            if part.is_stub_optimizer:
                continue
            for group in part.optimizer.param_groups:
                yield from group["params"]
            for values in part.optimizer.state.values():
                yield from (value for value in values.values() if torch.is_tensor(value))


def _gradient_buffers(state: TrainState) -> Iterator[Tensor]:
    for network in _networks(state):
        for chunk in chunks(network.model):
            for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]:
                yield buffer.grad_data


def _bytes(tensors: Iterable[Tensor], besides: Iterable[Tensor] = ()) -> int:
    """Memory of the tensors, shared memory once, without that of `besides`."""
    storages = {_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for key, size in storages.items() if key not in {_key(tensor) for tensor in besides})


def _key(tensor: Tensor) -> int:
    """The same for tensors that share memory."""
    return tensor.untyped_storage().data_ptr()


def _resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux tells KiB
