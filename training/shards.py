"""Parts of tensors out of Megatron's shards, for who has no memory for the whole of a tensor, let alone of the network.

Megatron's own load wants every part of each tensor asked for. What it writes are torch's distributed checkpoints, which
can be read by the piece.
"""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from infra.errors import CheckpointError
from modeling import cpu

cpu.install()

from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory  # noqa: E402


class Shards:
    """The shards in a folder; their index is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reader = folder, FileSystemReader(str(folder))
        try:
            self.index = self.reader.read_metadata()
        except Exception as error:  # a pickle that is damaged may raise anything
            raise CheckpointError(f"{folder}: has no readable index ({error}); export another checkpoint") from error
        self.reader.set_up_storage_reader(self.index, is_coordinator=True)

    def read(self, wanted: dict[str, Any]) -> dict[str, Tensor]:
        """Values of Megatron's sharded tensors (or factories of them), by the names given.

        Raises CheckpointError for what is not there, or there in another shape.
        """
        found: dict[str, Tensor] = {}
        items: list[ReadItem] = []
        places: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        for name, sharded in wanted.items():
            found[name] = torch.empty_like(sharded.data, device="cpu")
            for part in _parts(sharded, found[name]):
                offsets, sizes = tuple(part.global_offset), (1,) * part.prepend_axis_num + tuple(part.local_shape)
                places[part.key, offsets] = part.data.view(sizes)
                items += self._items(part.key, tuple(part.global_shape), offsets, sizes)
        self.reader.read_data(LoadPlan(items), _Into(places)).wait()
        return found

    def _items(
        self, key: str, whole: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]
    ) -> list[ReadItem]:
        """What has to be read for one part of the tensor `key`."""
        there = self.index.state_dict_metadata.get(key)
        if not isinstance(there, TensorStorageMetadata) or tuple(there.size) != whole:
            have = tuple(there.size) if isinstance(there, TensorStorageMetadata) else "missing"
            raise CheckpointError(f"{self.folder}: another model's weights: {key} {have} (here {whole})")
        part = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        items = create_read_items_for_chunk_list(key, there, [part])
        if sum(math.prod(item.lengths) for item in items) != math.prod(sizes):
            raise CheckpointError(f"{self.folder}: holds only a part of {key}; export another checkpoint")
        return items


def _parts(sharded: Any, data: Tensor) -> Iterable[ShardedTensor]:
    """The sharded tensors that fill `data`: itself, or what a factory cuts it into (gate and up), as views."""
    if isinstance(sharded, ShardedTensorFactory):
        built = sharded.build_fn(sharded.key, data, sharded.replica_id, sharded.flattened_range)
        return built.values() if isinstance(built, dict) else built
    sharded = sharded.without_data()
    sharded.data = data
    return [sharded]


class _Into(LoadPlanner):
    """Puts what is read to its place; the plan is made already."""

    def __init__(self, places: dict[tuple[str, tuple[int, ...]], Tensor]) -> None:
        self.places = places

    def set_up_planner(self, *args: Any, **kwargs: Any) -> None: ...

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan([])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None: ...

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        place = self.places[read_item.dest_index.fqn, tuple(read_item.dest_index.offset)]
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            place = place.narrow(dim, start, length)
        return place

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None: ...
