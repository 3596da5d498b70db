"""Muon: momentum whose matrix is made orthogonal before it is applied (Jordan et al. 2024; Moonlight §2).

Departs from V3 §4.2, which trains with AdamW alone: at the tiny scale Muon reaches the same loss in fewer tokens.
For hidden matrices only; embeddings, head, router and norms stay with AdamW. Every data-parallel rank holds the same
momentum and orthogonalises its share of the matrices; one all-gather puts the updates together.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.chunks import Chunks
from training.config import OptimizerConfig
from training.optimizer import init_moments

from megatron.core import parallel_state  # isort: skip
from megatron.core import optimizer as megatron_optimizer  # isort: skip
from megatron.core.distributed import DistributedDataParallel  # isort: skip
from megatron.core.optimizer.optimizer import (  # isort: skip
    ChainedOptimizer,
    Float16OptimizerWithFloat16Params,
    FP32Optimizer,
    MegatronOptimizer,
)

# Jordan's quintic: steep at 0, so that five rounds bring singular values from 0.01 up into 0.7..1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices by Newton-Schulz: [n, rows, cols] -> the same with singular values near 1.

    U S V^T -> about U V^T. Example: diag(3, -2) -> about diag(1, -1). Works in the input's type.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    params: matrices [rows, cols], or stacks of them [n, rows, cols]; those whose gradient is None stay as they are.
    process_group: ranks that hold the same matrices and gradients, and share the work. A matrix moves by
    lr * max(1, rows / cols) ** 0.5 in each of its directions; with rms > 0 by lr * rms * max(rows, cols) ** 0.5, so
    that its entries move by about lr * rms, as AdamW's do (Moonlight eq. 4).
    """

    def __init__(
        self, params: Any, *, process_group: dist.ProcessGroup, lr: float, momentum: float, rms: float = 0.0
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=0.0))
        self.process_group, self.rms = process_group, rms
        self._shares: dict[tuple, list[list[int]]] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            init_momentum(self, group)
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            momenta = [self.state[p]["momentum_buffer"] for p in params]
            grads = [p.grad for p in params]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            updates = self._updates(_matrices(grads), _matrices(momenta), group["momentum"])
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(_matrices(params), updates, alpha=-group["lr"])

    def _updates(self, grads: list[Tensor], momenta: list[Tensor], momentum: float) -> list[Tensor]:
        """The orthogonal update of every matrix, computed once among the ranks."""
        ranks, rank = self.process_group.size(), self.process_group.rank()
        shapes = tuple(g.shape for g in grads)
        shares = self._shares.setdefault(shapes, _share_out(shapes, ranks))
        sizes = [[shapes[i].numel() for i in share] for share in shares]
        dtype = _compute_type(grads[0].device)
        mine = torch.zeros(max(sum(s) for s in sizes), dtype=dtype, device=grads[0].device)
        out = mine[: sum(sizes[rank])].split(sizes[rank])

        for shape in dict.fromkeys(shapes[i] for i in shares[rank]):
            chosen = [(i, slot) for i, slot in zip(shares[rank], out, strict=True) if shapes[i] == shape]
            nesterov = torch._foreach_lerp([grads[i] for i, _ in chosen], [momenta[i] for i, _ in chosen], momentum)
            scale = self.rms * max(shape) ** 0.5 if self.rms else max(1.0, shape[0] / shape[1]) ** 0.5
            for result, (_, slot) in zip(orthogonalize(torch.stack(nesterov).to(dtype)), chosen, strict=True):
                torch.mul(result, scale, out=slot.view(shape))

        everyone = mine
        if ranks > 1:
            everyone = mine.new_empty(ranks * len(mine))
            dist.all_gather_single(everyone, mine, group=self.process_group)
        updates: list[Tensor] = [mine] * len(shapes)
        for share, size, part in zip(shares, sizes, everyone.float().view(ranks, -1), strict=True):
            for i, update in zip(share, part[: sum(size)].split(size), strict=True):
                updates[i] = update.view(shapes[i])
        return updates


def init_momentum(optimizer: Muon, group: dict[str, Any]) -> None:
    """Momentum for all, also where there is no gradient yet: a checkpoint holds the same tensors at every step."""
    for p in group["params"]:
        if not optimizer.state[p]:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def _matrices(tensors: list[Tensor]) -> list[Tensor]:
    """Stacks taken apart, as views."""
    return [m for t in tensors for m in (t.unbind(0) if t.dim() == 3 else (t,))]


def _share_out(shapes: tuple[torch.Size, ...], ranks: int) -> list[list[int]]:
    """Indices of the matrices for each rank, about equal in work; equal shapes stay together, to go as one batch."""

    def work(i: int) -> int:
        return shapes[i].numel() * min(shapes[i])

    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for i in sorted(range(len(shapes)), key=lambda i: (-work(i), shapes[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(i)
        loads[lightest] += work(i)
    return [sorted(share) for share in shares]


def _compute_type(device: torch.device) -> torch.dtype:
    """BF16 where the processor multiplies it natively (2.5 times faster), as the paper does; FP32 elsewhere."""
    capabilities = torch.cpu.get_capabilities()
    native = device.type == "cuda" or capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def build_muon(
    cfg: OptimizerConfig, config: megatron_optimizer.OptimizerConfig, model: DistributedDataParallel | Chunks
) -> MegatronOptimizer:
    """AdamW, Muon, and Muon for experts, in one chain."""
    matrices, experts, decayed, vectors = [], [], [], []
    for name, p in model.named_parameters():
        if p.dim() < 2:
            vectors.append(p)
        elif getattr(p, "is_embedding_or_output_parameter", False) or name.endswith("router.weight"):
            decayed.append(p)
        else:
            (matrices if getattr(p, "allreduce", True) else experts).append(p)

    adamw = megatron_optimizer.Adam([_group(decayed), _group(vectors, wd_mult=0.0)])
    kwargs = dict(lr=cfg.muon_lr, momentum=cfg.muon_momentum, rms=cfg.muon_rms)
    over_data = parallel_state.get_data_parallel_group(with_context_parallel=True)
    muon = Muon([_group(matrices)], process_group=over_data, **kwargs)
    over_experts = parallel_state.get_expert_data_parallel_group()
    expert_muon = Muon([_group(experts, is_expert_parallel=True)], process_group=over_experts, **kwargs)

    dense = parallel_state.get_model_parallel_group()
    expert = parallel_state.get_expert_tensor_model_pipeline_parallel_group()
    return ChainedOptimizer(
        [_wrap(adamw, config, dense), _wrap(muon, config, dense), _wrap(expert_muon, config, expert)]
    )


def _group(params: list[Tensor], wd_mult: float = 1.0, is_expert_parallel: bool = False) -> dict[str, Any]:
    """A group with the fields that Megatron tells groups apart by."""
    return dict(
        params=params,
        wd_mult=wd_mult,
        lr_mult=1.0,
        is_expert_parallel=is_expert_parallel,
        is_decoupled_lr=False,
        max_lr=1.0,
        min_lr=0.0,
    )


def _wrap(
    optimizer: torch.optim.Optimizer, config: megatron_optimizer.OptimizerConfig, stats_group: dist.ProcessGroup
) -> MegatronOptimizer:
    """Megatron's wrapper: BF16 parameters get FP32 masters. stats_group: ranks over which gradient norms add up."""

    def init_state(inner: torch.optim.Optimizer, config: Any = None) -> None:
        for group in inner.param_groups:
            (init_momentum if isinstance(inner, Muon) else init_moments)(inner, group)

    if config.bf16:
        wrapped = Float16OptimizerWithFloat16Params(optimizer, config, None, init_state)
    else:
        wrapped = FP32Optimizer(optimizer, config, init_state)
    wrapped.grad_stats_parallel_group = stats_group
    wrapped.tp_group = parallel_state.get_tensor_model_parallel_group()
    wrapped.expert_tp_group = parallel_state.get_expert_tensor_parallel_group()
    return wrapped
