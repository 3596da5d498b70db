"""FP8 training (V3 §3.3): one recipe, whatever carries it. E4M3 for every operand, an FP32 scale for each 1 x 128 tile
of activations and gradients and each 128 x 128 block of weights, FP32 accumulation.

Only the products of the decoder layers' linear layers and experts are in FP8. Embedding, head, router, norms, attention
core and MTP's eh_proj (BF16 in the released weights, too) keep their precision, and so do the weights themselves.

Three carriers compute the products: Transformer Engine (`te`; build.py sets Megatron's fields), torch's block-scaled
cuBLAS product on Hopper (`torch`), and FP32 products of what quantisation leaves (`emulated`), the reference of both.

Departs from V3 §3.3.3: activations are kept for the backward pass as they were, not in FP8, and scales are never
rounded to powers of two; Wgrad's operands are quantised once, along tokens, as Transformer Engine does.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from infra.hardware import compute_capability, fp8_lacks
from modeling.config import DType, Fp8, ModelConfig, Modules

TILE = 128
E4M3_MAX = 448.0
_SMALLEST = torch.finfo(torch.float32).tiny
"Least scale: below it a scale would lose its own digits. A block that is all zero has it, too."
_CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
"The value of each E4M3 code. On CPU a look-up is six times as fast as torch's conversion."


def carrier(cfg: ModelConfig) -> Fp8:
    """What carries cfg's FP8 products on this machine: te, torch or emulated; none where FP8 is not asked for.

    auto prefers te, then torch; without a GPU it is emulated. Raises ConfigError, naming what lacks, where nothing can.
    """
    if cfg.fp8 in (Fp8.none, Fp8.emulated):
        return cfg.fp8
    if cfg.fp8 is Fp8.auto and not torch.cuda.is_available():
        return Fp8.emulated
    lacks = fp8_lacks()
    if cfg.dtype is not DType.bf16:
        lacks |= {name: "model.dtype=bf16" for name in ("te", "torch")}
    wanted = [cfg.fp8]
    if cfg.fp8 is Fp8.auto:
        excluded = {Modules.local: Fp8.te, Modules.te: Fp8.torch}.get(cfg.modules)
        wanted = [each for each in (Fp8.te, Fp8.torch) if each is not excluded]
    for each in wanted:
        if not lacks[each.name]:
            return each
    problem = " and ".join(f"{each.name} needs {lacks[each.name]}" for each in wanted)
    raise ConfigError("model.fp8", cfg.fp8.name, problem, "set model.fp8=none, or emulated for its numbers alone")


@functools.cache
def keep_fp32_scales() -> None:
    """Told before its import, Transformer Engine leaves scales as they are; Blackwell needs them as powers of two."""
    if importlib.util.find_spec("transformer_engine") is not None and compute_capability().startswith("9."):
        os.environ.setdefault("NVTE_FP8_BLOCK_SCALING_FP32_SCALES", "1")


@dataclass(slots=True)
class Quantised:
    """E4M3 values with a scale for each block; leading dimensions are a stack of matrices."""

    values: Tensor
    "float8_e4m3fn [..., rows, cols], zeros beyond `shape` up to whole blocks."
    scales: Tensor
    "FP32 [..., rows / block, cols / 128]; a number is value * scale."
    block: int
    "Rows of a block: 1 or 128. It is 128 columns wide."
    shape: tuple[int, int]
    "Rows and columns of the matrix itself."

    @property
    def mT(self) -> "Quantised":
        """Transposed; square blocks only."""
        assert self.block == TILE
        return Quantised(self.values.mT, self.scales.mT, TILE, self.shape[::-1])

    def __getitem__(self, index: int) -> "Quantised":
        """One matrix of the stack."""
        return Quantised(self.values[index], self.scales[index], self.block, self.shape)

    def rows(self, start: int, stop: int) -> "Quantised":
        """A run of rows of tiles."""
        assert self.block == 1
        return Quantised(self.values[start:stop], self.scales[start:stop], 1, (stop - start, self.shape[1]))

    def columns(self, start: int, stop: int) -> "Quantised":
        """A run of whole tiles of every row."""
        assert start % TILE == stop % TILE == 0
        scales = self.scales[..., start // TILE : stop // TILE]
        return Quantised(self.values[..., start:stop], scales, self.block, (self.shape[0], stop - start))


def quantise(x: Tensor, block: int) -> Quantised:
    """x [..., rows, cols] in blocks of `block` (1 or 128) x 128, each scaled so that its largest number becomes 448.

    A block with an infinity or a NaN becomes NaN as a whole, so that it cannot pass unseen.
    Example: a row of 1, 2, 3.5 and zeros has the scale 3.5 / 448 and the values 128, 256, 448, 0, ...
    """
    cut = _fused_cut() if x.is_cuda and can_fuse() else _cut
    return Quantised(*cut(x.contiguous(), block), block, (x.shape[-2], x.shape[-1]))


def _cut(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Values and scales of quantise."""
    below, right = -x.shape[-2] % block, -x.shape[-1] % TILE
    if below or right:
        x = F.pad(x, (0, right, 0, below))
    blocks = x.float().unflatten(-1, (-1, TILE)).unflatten(-3, (-1, block))  # [..., R, block, C, 128]
    scales = (blocks.abs().amax((-3, -1)) / E4M3_MAX).clamp_min(_SMALLEST)
    values = (blocks / scales[..., :, None, :, None]).to(torch.float8_e4m3fn)
    return values.flatten(-2).flatten(-3, -2).contiguous(), scales


@functools.cache
def can_fuse() -> bool:
    """Triton is there, and the C compiler that it starts its kernels with."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


@functools.cache
def _fused_cut() -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """_cut in one pass over memory instead of five, which would cost more than FP8 products save."""
    return torch.compile(_cut, dynamic=True)


def dequantise(q: Quantised) -> Tensor:
    """-> FP32 [..., rows, cols]."""
    if q.values.is_cuda:
        x = q.values.float()
    else:
        x = _CODES.index_select(0, q.values.view(torch.uint8).int().flatten()).view(q.values.shape)
    x = x.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, q.block)) * q.scales[..., :, None, :, None]
    return x.flatten(-2).flatten(-3, -2)[..., : q.shape[0], : q.shape[1]]


Product = Callable[[Quantised, Quantised, torch.dtype], Tensor]
"(a [m, k], b [n, k], type of the result) -> a b^T [m, n]."


def emulated_product(a: Quantised, b: Quantised, dtype: torch.dtype) -> Tensor:
    """In FP32, so exact but for the rounding of sums."""
    return (dequantise(a) @ dequantise(b).mT).to(dtype)


def scaled_product(a: Quantised, b: Quantised, dtype: torch.dtype) -> Tensor:
    """By torch's block-scaled product (cuBLAS 12.9 on Hopper; split accumulation in FP32). One of a, b has tiles."""
    (m, k), n = a.shape, b.shape[0]
    if not (m and n and k):
        return torch.zeros(m, n, dtype=dtype, device=a.values.device)
    (a_values, a_scales, a_type), (b_values, b_scales, b_type) = laid_out(a), laid_out(b)
    out = F.scaled_mm(a_values, b_values.t(), a_scales, a_type, b_scales, b_type, output_dtype=dtype)
    return out[:m, :n]


def laid_out(q: Quantised) -> tuple[Tensor, Tensor, Any]:
    """Values, scales and the kind of scaling as F.scaled_mm reads them.

    values: [rows, cols] contiguous, rows a multiple of 16 (filled with zeros). scales of tiles: [rows, cols / 128] with
    strides (1, rows); of 128 x 128 blocks: [L4, rows / 128] with strides (1, L4), L4 being cols / 128 rounded up to a
    multiple of 4 (cuBLAS, "scaling factors layouts").
    """
    missing = -q.values.shape[0] % 16
    values = F.pad(q.values.view(torch.uint8), (0, 0, 0, missing)).view(torch.float8_e4m3fn) if missing else q.values
    if q.block == 1:
        scales = F.pad(q.scales, (0, 0, 0, missing)).t().contiguous().t()
        return values.contiguous(), scales, F.ScalingType.BlockWise1x128
    scales = F.pad(q.scales, (0, -q.scales.shape[1] % 4)).contiguous().t()
    return values.contiguous(), scales, F.ScalingType.BlockWise128x128


PRODUCTS: dict[Fp8, Product] = {Fp8.emulated: emulated_product, Fp8.torch: scaled_product}


def linear(x: Tensor, weight: Tensor, product: Product) -> Tensor:
    """x [..., in] times weight [out, in], transposed -> [..., out], in x's type; forward and backward in FP8."""
    return _Linear.apply(x, weight, product)


class _Linear(torch.autograd.Function):
    """V3 fig. 6: Fprop, Dgrad and Wgrad, each with its operands' tiles along what it sums over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, product: Product) -> Tensor:
        tokens = x.flatten(0, -2)
        w = quantise(weight, TILE)
        ctx.save_for_backward(tokens, w.values, w.scales)
        ctx.weight_dtype, ctx.weight_shape, ctx.product, ctx.shape = weight.dtype, w.shape, product, x.shape
        return product(quantise(tokens, 1), w, x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        tokens, values, scales = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            w = Quantised(values, scales, TILE, ctx.weight_shape)
            d_x = ctx.product(quantise(grad, 1), w.mT, grad.dtype).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            d_weight = ctx.product(quantise(grad.t(), 1), quantise(tokens.t(), 1), ctx.weight_dtype)
        return d_x, d_weight, None
