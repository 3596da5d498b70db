"""The weighted average of two models in Hugging Face folders, tensor by tensor (K §2.4, model merging)."""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from infra.errors import CheckpointError
from modeling import hf, hf_convert, hf_files, hf_names
from modeling.config import ModelConfig

_FREE_FIELDS = ("aux_loss_alpha", "initializer_range", "dtype", "modules", "experts", "fp8")
"Fields that two models may differ in and still be averaged."


def merge(first: Path, second: Path, out: Path, share: float = 0.5) -> ModelConfig:
    """Write share x first + (1 - share) x second as `out`, with first's types, settings and tokenizer; -> its config.

    Sums are in FP32, one shard of both is in memory. The router's bias is averaged as any weight. FP8 becomes BF16.
    Raises CheckpointError for another shape, other tensors or another vocabulary, before anything is written.
    """
    first, second = Path(first), Path(second)
    cfg, other = hf.config_from(first), hf.config_from(second)
    differ = [
        f"{f.name}={getattr(other, f.name)} (first: {getattr(cfg, f.name)})"
        for f in fields(cfg)
        if f.name not in _FREE_FIELDS and getattr(other, f.name) != getattr(cfg, f.name)
    ]
    if differ:
        raise CheckpointError(f"{second}: another model: {', '.join(differ)}; give two that have one base")
    if _vocabulary(first) != _vocabulary(second):
        raise CheckpointError(f"{second}: another vocabulary than {first}; give two models that have one base")
    left, right = hf_files.headers(first), hf_files.headers(second)
    for folder, tensors in ((first, left), (second, right)):
        hf.check_tensors(folder, tensors, cfg, cfg)
    names = sorted(hf_names.expected(cfg), key=lambda name: left[name].file)
    kept = {name: torch.bfloat16 if left[name].scale else left[name].dtype for name in names}
    specs = hf_convert.specs_of({name: (left[name].shape, kept[name]) for name in names}, None, fp8=False)

    def values(names: list[str]) -> Iterable[tuple[str, Tensor]]:
        summed = {t.name: value.float() * share for t, value in hf_files.read(left[name] for name in names)}
        for tensor, value in hf_files.read(right[name] for name in names):
            yield tensor.name, summed.pop(tensor.name).add_(value.float(), alpha=1 - share)

    settings = hf_convert.settings_without_code(first) | hf_convert.settings_of(specs, fp8=False)
    hf_files.write(out, settings, specs, values, beside=hf_convert.copying(first))
    return cfg


def _vocabulary(folder: Path) -> object:
    """tokenizer.json's model: tokens and merges; None where the folder has none."""
    path = folder / "tokenizer.json"
    return json.loads(path.read_text()).get("model") if path.exists() else None
