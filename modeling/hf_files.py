"""The files of a Hugging Face folder: config.json and *.safetensors, read and written with one shard in memory.

They are data, never code: a folder with pickled weights only is refused. Knows nothing of models but block scales.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import CheckpointError
from modeling import hf_fp8

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2 * 2**30
"The largest file, but for one with a single larger tensor."
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FP8 = "F8_E4M3"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as its file's header describes it; read() gives its values."""

    name: str
    file: Path
    shape: tuple[int, ...]
    format: str
    'Safetensors\' name of the type, as in "BF16" or "F8_E4M3".'
    scale: "Stored | None" = None
    "The block scales of an FP8 tensor."

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of what read() gives: FP32 for FP8 with its scales; None for what cannot be read."""
        return torch.float32 if self.scale is not None else _DTYPES.get(self.format)


def read(tensors: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """The tensors' values, FP8 dequantised, file after file. Each is valid until the next is taken."""
    by_file: dict[Path, list[Stored]] = {}
    for tensor in tensors:
        by_file.setdefault(tensor.file, []).append(tensor)
    for path, wanted in by_file.items():
        with opened(path) as file:
            for tensor in wanted:
                value = file.get_tensor(tensor.name)
                if tensor.scale is not None:
                    value = hf_fp8.dequantise(value, _scales(tensor.scale, path, file))
                yield tensor, value


def _scales(scale: Stored, path: Path, file: Any) -> Tensor:
    if scale.file == path:
        return file.get_tensor(scale.name)
    with opened(scale.file) as other:  # the released shards now and then cut between a weight and its scales
        return other.get_tensor(scale.name).clone()


def headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder, from the headers alone; scales go with their weights.

    Raises CheckpointError for files that are missing or damaged.
    """
    found: dict[str, Stored] = {}
    for path in _files(folder):
        with opened(path) as file:
            for name in file.keys():
                header = file.get_slice(name)
                found[name] = Stored(name, path, tuple(header.get_shape()), header.get_dtype())
    for name, tensor in list(found.items()):
        scale = found.get(name + hf_fp8.SCALE)
        fits = scale is not None and scale.format == "F32" and len(tensor.shape) == 2
        if fits and tensor.format == _FP8 and scale.shape == hf_fp8.scale_shape(tensor.shape):
            found[name] = Stored(name, tensor.file, tensor.shape, tensor.format, scale)
            del found[scale.name]
    return found


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX).get("weight_map")
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
        raise CheckpointError(f"{folder}: {some(absent)} not there; fetch the safetensors files again{pickled}")
    return files


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped to memory. Raises CheckpointError for one that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); fetch or write it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give a Hugging Face folder (config.json, *.safetensors)"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is no JSON object; give a Hugging Face folder (config.json, *.safetensors)")
    return found


def some(names: list[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that will be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fp8: bool = False
    "Whether it is written as FP8 with block scales; dtype is that of the values handed in."

    @property
    def nbytes(self) -> int:
        """Bytes in the file, scales included."""
        count = torch.Size(self.shape).numel()
        return (
            count + 4 * torch.Size(hf_fp8.scale_shape(self.shape)).numel() if self.fp8 else count * self.dtype.itemsize
        )


def write(
    folder: Path,
    config: dict[str, Any],
    specs: dict[str, Spec],
    values: Callable[[list[str]], Iterable[tuple[str, Tensor]]],
    *,
    max_shard_bytes: int = SHARD_BYTES,
    beside: Callable[[Path], None] | None = None,
    done: Callable[[int, int], None] | None = None,
) -> None:
    """Write a folder, whole or not at all; it replaces a model that was there with all its files.

    values(names) gives the tensors of one shard, in any order: one shard is in memory at a time. beside(folder) may
    put more files in. done(bytes, of so many) is told of each shard. Raises CheckpointError where the folder cannot be
    written, or holds something else; what was there before is untouched then.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder / CONFIG).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: holds something else than a model and is left alone; choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _check_room(partial, specs)
        _write_shards(partial, specs, values, max_shard_bytes, done)
        _write_json(partial / CONFIG, config)
        if beside is not None:
            beside(partial)
        _replace(folder, partial)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        remedy = "; free some space and start again" if full else "; choose another folder"
        raise CheckpointError(f"{folder}: cannot write the model: {error}{remedy}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(folder: Path, specs: dict[str, Spec]) -> None:
    if shutil.disk_usage(folder).free < sum(spec.nbytes for spec in specs.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_shards(
    folder: Path,
    specs: dict[str, Spec],
    values: Callable[[list[str]], Iterable[tuple[str, Tensor]]],
    max_shard_bytes: int,
    done: Callable[[int, int], None] | None,
) -> None:
    """The weights, in one file or in shards with their index."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, spec in specs.items():
        if shards[-1] and spec.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= spec.nbytes
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        files = [WEIGHTS]
    where: dict[str, str] = {}
    total = sum(spec.nbytes for spec in specs.values())
    for file, names in zip(files, shards, strict=True):
        tensors: dict[str, Tensor] = {}
        for name, value in values(names):
            if specs[name].fp8:
                tensors[name], tensors[name + hf_fp8.SCALE] = hf_fp8.quantise(value)
            else:
                # Its own memory: what comes from a mapped file goes when that is closed.
                tensors[name] = value.to("cpu", specs[name].dtype, copy=True, memory_format=torch.contiguous_format)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
        if done is not None:
            done(sum(specs[name].nbytes for name in names), total)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
