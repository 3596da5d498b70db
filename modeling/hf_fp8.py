"""FP8 weights as DeepSeek-V3 was released (V3 §3.3.2): E4M3 with one FP32 scale for each block of 128 x 128.

The tensor `<name>` is float8_e4m3fn [M, N], `<name>_scale_inv` FP32 [ceil(M/128), ceil(N/128)]; a weight is its FP8
value times the scale of its block. Edge blocks are smaller. Embedding, head, norms, router and eh_proj have no scale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
SCALE = "_scale_inv"
LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a weight's scales. (576, 7168) -> (5, 56)."""
    return tuple(math.ceil(size / BLOCK) for size in shape)


def is_quantised(name: str) -> bool:
    """Whether a checkpoint in FP8 holds the Hugging Face tensor `name` in blocks: the layers' projections."""
    inside = ".self_attn." in name or ".mlp." in name
    return inside and name.endswith(("_proj.weight", "_proj_with_mqa.weight"))


def dequantise(weight: Tensor, scale: Tensor) -> Tensor:
    """weight [M, N] float8_e4m3fn, scale [ceil(M/128), ceil(N/128)] -> [M, N] FP32, one row of blocks at a time."""
    out = torch.empty(weight.shape, dtype=torch.float32)
    for rows, block, scales in zip(out.split(BLOCK), weight.split(BLOCK), scale.float(), strict=True):
        torch.mul(block.float(), scales.repeat_interleave(BLOCK)[: weight.shape[1]], out=rows)
    return out


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [M, N] -> (float8_e4m3fn [M, N], FP32 scales): the largest value of each block becomes 448.

    A block of zeros gets the scale 1. Example: a block whose largest magnitude is 2.0 has the scale 2/448.
    """
    out, scales = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), []
    width = math.ceil(weight.shape[1] / BLOCK) * BLOCK
    for rows, result in zip(weight.split(BLOCK), out.split(BLOCK), strict=True):
        blocks = F.pad(rows.float(), (0, width - weight.shape[1])).unflatten(1, (-1, BLOCK))  # [rows, blocks, 128]
        scale = blocks.abs().amax((0, 2)) / LARGEST
        scale = torch.where(scale > 0, scale, 1.0)
        result.copy_((blocks / scale.unsqueeze(-1)).clamp_(-LARGEST, LARGEST).flatten(1)[:, : weight.shape[1]])
        scales.append(scale)
    return out, torch.stack(scales)
