"""AdamW and Muon behind Megatron's optimizer wrappers: FP32 masters for BF16 weights, ZeRO-1, gradient norms over
every layout, and sharded checkpoints come from there. Experts always form an optimizer of their own, so that their
state fits every layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infra.errors import ConfigError
from training.chunks import Chunks, chunks
from training.config import OptimizerConfig, OptimizerName, ParallelConfig

if TYPE_CHECKING:  # Megatron takes seconds to import, which a mistyped setting should not cost
    import megatron.core.optimizer as megatron_optimizer
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.optimizer.optimizer import MegatronOptimizer


class AdamW(torch.optim.Optimizer):
    """torch's fused AdamW in the form of NVIDIA's FusedAdam: the step count lives in the group, not with each tensor.

    Megatron's sharded checkpoints expect that form; with torch.optim.AdamW they cannot be loaded. A parameter whose
    gradient is None stays as it is, moments included.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            init_moments(self, group)
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            step = torch.tensor(float(group["step"]), device=params[0].device)
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                [step] * len(params),
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def init_moments(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Moments for all, also where there is no gradient yet: a checkpoint holds the same tensors at every step."""
    for p in group["params"]:
        if not optimizer.state[p]:
            optimizer.state[p]["exp_avg"] = torch.zeros_like(p)
            optimizer.state[p]["exp_avg_sq"] = torch.zeros_like(p)


def build_optimizer(
    cfg: OptimizerConfig, model: DistributedDataParallel | Chunks, parallel: ParallelConfig
) -> MegatronOptimizer:
    """Megatron's optimizer for this rank's part of the model. Raises ConfigError for Muon on split matrices."""
    import megatron.core.optimizer as megatron_optimizer
    from megatron.core.optimizer import distrib_optimizer

    config = _megatron_config(cfg, model, parallel)
    if megatron_optimizer.USING_PYTORCH_OPTIMIZER:  # neither Transformer Engine nor Apex is there
        megatron_optimizer.Adam, megatron_optimizer.USING_PYTORCH_OPTIMIZER = AdamW, False
        distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True
    if cfg.name is OptimizerName.muon:
        from training.muon import build_muon

        if parallel.zero1 or parallel.tensor > 1:
            key = "parallel.zero1" if parallel.zero1 else "parallel.tensor"
            value = parallel.zero1 or parallel.tensor
            raise ConfigError(key, value, "Muon needs whole matrices", "set optimizer.name=adamw or leave it off")
        optimizer = build_muon(cfg, config, model)
    else:
        optimizer = megatron_optimizer.get_megatron_optimizer(config, chunks(model))
    set_lr(optimizer, cfg, lr_scale=1.0)
    return optimizer


def _megatron_config(
    cfg: OptimizerConfig, model: DistributedDataParallel | Chunks, parallel: ParallelConfig
) -> megatron_optimizer.OptimizerConfig:
    from megatron.core.optimizer import OptimizerConfig as MegatronConfig

    # Its lr only names the groups in checkpoints; set_lr gives the real one, so a resume may change it.
    return MegatronConfig(
        optimizer="adam",
        lr=1.0,
        min_lr=0.0,
        weight_decay=cfg.weight_decay,
        adam_beta1=cfg.beta1,
        adam_beta2=cfg.beta2,
        adam_eps=cfg.eps,
        clip_grad=cfg.clip_grad,
        bf16=model.config.bf16,
        params_dtype=model.config.params_dtype,
        use_distributed_optimizer=parallel.zero1,
    )


def forget(optimizer: MegatronOptimizer) -> None:
    """Begin anew: no moments, no steps done; weights and their FP32 masters stay."""
    for part in chained(optimizer):
        if part.is_stub_optimizer:
            continue
        for group in part.optimizer.param_groups:
            if "step" in group:
                group["step"] = 0
        for moments in part.optimizer.state.values():
            for value in moments.values():
                if torch.is_tensor(value):
                    value.zero_()


def set_lr(optimizer: MegatronOptimizer, cfg: OptimizerConfig, lr_scale: float) -> None:
    """Give every group the config's hyperparameters, both learning rates times lr_scale."""
    for group in optimizer.param_groups:
        group["weight_decay"] = cfg.weight_decay * group["wd_mult"]
        if "momentum" in group:
            group["lr"], group["momentum"] = cfg.muon_lr * lr_scale, cfg.muon_momentum
        else:
            group["lr"], group["betas"], group["eps"] = cfg.lr * lr_scale, (cfg.beta1, cfg.beta2), cfg.eps


def chained(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers of the chain: dense weights, experts, with Muon each twice."""
    return getattr(optimizer, "chained_optimizers", [optimizer])


def main_param(optimizer: MegatronOptimizer, param: Tensor) -> Tensor | None:
    """What the optimiser updates in the place of a model's parameter: itself, its FP32 master, this rank's shard."""
    for part in chained(optimizer):
        index = getattr(part, "model_param_group_index_map", None)
        if index is None:
            return getattr(param, "main_param", param)
        if param in index:
            group, order = index[param]
            return part.optimizer.param_groups[group]["params"][order]
    return None


def clip_gradients(optimizer: MegatronOptimizer, max_norm: float, grad_norm: float) -> None:
    """Scale all gradients so that their norm is at most max_norm; 0 leaves them."""
    from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

    if 0 < max_norm < grad_norm:
        clip_grad_by_total_norm_fp32(optimizer.get_parameters(), max_norm, grad_norm)
