"""Single FP8 products: each carrier's against the emulated reference, and its speed beside BF16's."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.gpu_check.clock import seconds
from experiments.gpu_check.settings import SIZES, Settings, precisions
from modeling.config import Fp8, ModelConfig
from modeling.fp8 import PRODUCTS, TILE, can_fuse, linear, quantise
from training import parallel

LIMIT = 0.01
"Largest relative difference (Frobenius) of a carrier to the emulation: BF16 results are rounded by 0.002 alone."


def run(settings: Settings) -> dict[str, Any]:
    """Forward and both backward products of every carrier here; "problem" where one computes something else."""
    device, found = parallel.device(), {}
    for tokens, inner, outer in SIZES[settings.size].products:
        generator = torch.Generator().manual_seed(0)
        x, w, grad = (
            torch.randn(*shape, generator=generator).to(device, torch.bfloat16)
            for shape in ((tokens, inner), (outer, inner), (tokens, outer))
        )
        w *= 0.02
        x[:, 3] *= 50  # a channel of outliers
        row: dict[str, Any] = {"bf16": _speed(lambda x, w: F.linear(x, w), x, w, grad)}
        expected = _all_three(lambda x, w: linear(x, w, PRODUCTS[Fp8.emulated]), x, w, grad)
        exact = _all_three(lambda x, w: F.linear(x, w), x.float(), w.float(), grad.float())
        row["emulated"] = {"relative_error_to_fp32": _differences(expected, exact)}
        for precision in precisions(settings):
            if precision.model.fp8 not in (Fp8.torch, Fp8.te):
                continue
            carried = _by_torch if precision.model.fp8 is Fp8.torch else _by_engine(precision.model, w)
            difference = _differences(_all_three(carried, x, w, grad), expected)
            row[precision.name] = {"difference_to_emulated": difference} | _speed(carried, x, w, grad)
            if max(difference.values()) > LIMIT:
                found["problem"] = f"{precision.name} computes something else than the recipe says: {difference}"
        if "torch" in row:
            row["torch"] |= _parts(x, w)
        found[f"{tokens}x{inner}x{outer}"] = row
    return found | {"quantiser": "compiled" if x.is_cuda and can_fuse() else "eager"}


Linear = Callable[[Tensor, Tensor], Tensor]


def _by_torch(x: Tensor, w: Tensor) -> Tensor:
    return linear(x, w, PRODUCTS[Fp8.torch])


def _by_engine(cfg: ModelConfig, w: Tensor) -> Linear:
    """One linear layer of Transformer Engine under Megatron's recipe; its weight stands for the second argument."""
    import transformer_engine.pytorch as te
    from megatron.core.fp8_utils import get_fp8_context

    from modeling.build import megatron_config

    config = megatron_config(cfg)
    layer = te.Linear(w.shape[1], w.shape[0], bias=False, params_dtype=w.dtype, device=w.device)
    with torch.no_grad():
        layer.weight.copy_(w)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        layer.weight.grad = None
        with get_fp8_context(config):
            return layer(x)

    product.weight = layer.weight
    return product


def _all_three(product: Linear, x: Tensor, w: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Fprop, Dgrad and Wgrad."""
    x = x.detach().requires_grad_()
    weight = getattr(product, "weight", None)
    weight = w.detach().requires_grad_() if weight is None else weight
    y = product(x, weight)
    d_x, d_w = torch.autograd.grad(y, (x, weight), grad)
    return {"fprop": y.detach(), "dgrad": d_x, "wgrad": d_w}


def _differences(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    pairs = ((name, left[name].float(), right[name].float()) for name in left)
    return {name: ((a - b).norm() / b.norm()).item() for name, a, b in pairs}


def _speed(product: Linear, x: Tensor, w: Tensor, grad: Tensor) -> dict[str, float]:
    """TFLOP/s of the three products together, quantisation included."""
    took = seconds(lambda: _all_three(product, x, w, grad), repeat=10, warmup=3)
    return {"ms": 1e3 * took, "tflops": 6e-12 * x.shape[0] * w.numel() / took}


def _parts(x: Tensor, w: Tensor) -> dict[str, float]:
    """Of the torch carrier's forward product: the product alone, and the quantisation of its operands."""
    a, b = quantise(x, 1), quantise(w, TILE)
    alone = seconds(lambda: PRODUCTS[Fp8.torch](a, b, torch.bfloat16), repeat=10, warmup=3)
    cut = seconds(lambda: (quantise(x, 1), quantise(w, TILE)), repeat=10, warmup=3)
    return {
        "product_tflops": 2e-12 * x.shape[0] * w.numel() / alone,
        "product_ms": 1e3 * alone,
        "quantise_ms": 1e3 * cut,
    }
