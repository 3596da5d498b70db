"""A Hugging Face folder rewritten as another: FP8 dequantised or made, every tensor checked, one shard in memory."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling import hf, hf_config, hf_files, hf_fp8, hf_names
from modeling.config import DType, ModelConfig
from modeling.hf_files import Spec
from modeling.tokenizer import FILES

_TORCH = {DType.bf16: torch.bfloat16, DType.fp32: torch.float32}
_OF_CODE = ("auto_map", "quantization_config", "torch_dtype", "dtype")


def convert(
    source: Path,
    out: Path,
    *,
    dtype: DType | None = None,
    fp8: bool = False,
    max_shard_bytes: int = hf_files.SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ModelConfig:
    """Rewrite the folder `source` as `out`, tokenizer included; -> the model's config.

    dtype None keeps each tensor's type, FP8 becomes BF16. Raises CheckpointError, before anything is written, that
    lists tensors missing, left over or of another shape.
    """
    source = Path(source)
    cfg = hf.config_from(source)
    stored = hf_files.headers(source)
    hf.check_tensors(source, stored, cfg, cfg)
    names = sorted(hf_names.expected(cfg), key=lambda name: stored[name].file)  # each file is opened once
    kept = {name: torch.bfloat16 if stored[name].scale else stored[name].dtype for name in names}
    specs = specs_of({name: (stored[name].shape, kept[name]) for name in names}, dtype, fp8)

    def values(names: list[str]) -> Iterable[tuple[str, Tensor]]:
        return ((tensor.name, value) for tensor, value in hf_files.read(stored[name] for name in names))

    settings = settings_without_code(source) | settings_of(specs, fp8)
    beside = copying(source)
    hf_files.write(out, settings, specs, values, max_shard_bytes=max_shard_bytes, beside=beside, done=progress)
    return cfg


def specs_of(
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]], dtype: DType | None, fp8: bool
) -> dict[str, Spec]:
    """How each tensor (shape and type as it is) is written. The router's bias stays as it is: it moves by 0.001."""
    specs = {}
    for name, (shape, own) in tensors.items():
        cast = dtype is not None and not name.endswith("e_score_correction_bias")
        specs[name] = Spec(shape, _TORCH[dtype] if cast else own, fp8=fp8 and hf_fp8.is_quantised(name))
    return specs


def settings_without_code(source: Path) -> dict[str, Any]:
    """config.json without what speaks of code, quantisation or types."""
    return {key: value for key, value in hf_files.read_json(source / hf.CONFIG).items() if key not in _OF_CODE}


def settings_of(specs: dict[str, Spec], fp8: bool) -> dict[str, Any]:
    """What config.json says of the weights' types."""
    dtype = specs["model.embed_tokens.weight"].dtype
    return {"torch_dtype": str(dtype).removeprefix("torch.")} | ({"quantization_config": hf_config.FP8} if fp8 else {})


def copying(source: Path) -> Callable[[Path], None]:
    """What copies the source's tokenizer into a folder."""

    def copy(folder: Path) -> None:
        for pattern in FILES:
            for path in source.glob(pattern):
                shutil.copyfile(path, folder / path.name)

    return copy
