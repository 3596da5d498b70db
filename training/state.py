"""TrainState: the model, its optimiser and how far training is; all that a checkpoint holds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from modeling import cpu
from modeling.build import build_model
from modeling.config import ModelConfig
from training import parallel
from training.chunks import Chunks
from training.config import OptimizerConfig, ParallelConfig
from training.layout import even_layout
from training.optimizer import build_optimizer
from training.step import finalize_gradients

from megatron.core import parallel_state  # isort: skip  -- after the CPU layer, which parallel installs
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # isort: skip
from megatron.core.optimizer.optimizer import MegatronOptimizer  # isort: skip


class Resumable(Protocol):
    """Where training is in its data. The state is the same on every rank, and made of tensors and plain types."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(kw_only=True)
class TrainState:
    """What a stage trains, and how far it is."""

    model: DistributedDataParallel | Chunks
    """The network in Megatron's wrapper, which holds the gradients; several where a rank has several stages."""
    optimizer: MegatronOptimizer
    """A chain of Megatron's optimizers."""
    model_cfg: ModelConfig
    """The network's shape."""
    optimizer_cfg: OptimizerConfig
    """Hyperparameters of the optimiser."""
    parallel_cfg: ParallelConfig
    """Layout over ranks."""
    stage: str
    """Name of the stage, as in "pretrain" or "zero"; a checkpoint resumes its own stage only."""
    routers: list[nn.Module]
    """This rank's routers that carry a balancing bias, in the order of layers, MTP last."""
    linears: list[nn.Module]
    """Layers whose weight gradient can go straight into the gradient buffer; none off-CPU, where TE has its own way."""
    mtp_params: list[nn.Parameter]
    """Parameters that only MTP uses."""
    data: Resumable | None = None
    """Position in the data."""
    beside: dict[str, "TrainState"] = field(default_factory=dict)
    """Other networks that the stage trains, by name (PPO's value model), each with its optimiser; they are saved and
    resumed with it."""
    step: int = 0
    """Steps of the loop done; the loop counts them."""
    updates: int = 0
    """Optimiser steps done; an RL step makes several."""
    tokens_seen: int = 0
    """Tokens trained on, over all ranks: those with a loss weight."""
    expert_loads: Tensor | None = None
    """[router, expert] tokens since training/expert_load.py wrote them; None: no step since. Not in checkpoints."""
    last_checkpoint: Path | None = None
    """The newest checkpoint written or read."""

    @property
    def module(self) -> nn.Module:
        """The network itself (Megatron's GPTModel, or Chunks of it)."""
        return self.model.module


def build_state(
    model_cfg: ModelConfig,
    optimizer_cfg: OptimizerConfig,
    parallel_cfg: ParallelConfig,
    *,
    stage: str,
    data: Resumable | None = None,
    init_from: Path | None = None,
) -> TrainState:
    """Build model and optimiser; every rank calls it, after parallel.init, whose seed gives the first weights.

    init_from: weights to start with (a Hugging Face folder, a run, or a checkpoint). With model_cfg.head=score the loss
    function of train_step is given scores, and token_logprobs gives them negated. Raises ConfigError for settings that
    do not fit each other, CheckpointError for weights of another shape.
    """
    if not parallel.is_initialized():
        parallel.init(parallel_cfg, seed=0)
    stages = range(parallel_cfg.virtual_pipeline)
    modules = [_build_stage(model_cfg, parallel_cfg, stage) for stage in stages]
    module = modules[0] if len(modules) == 1 else Chunks(modules)
    if init_from is not None:
        from training.checkpoint import load_weights

        load_weights(module, model_cfg, init_from)
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel_cfg.zero1,
        overlap_grad_reduce=False,
        check_for_nan_in_grad=False,  # train_step looks at the reduced loss and norm, before anything moves
    )
    wrapped = [DistributedDataParallel(module.config, ddp, module) for module in modules]
    for each in wrapped:
        each.broadcast_params()
    model = wrapped[0] if len(wrapped) == 1 else Chunks(wrapped)
    return TrainState(
        model=model,
        optimizer=build_optimizer(optimizer_cfg, model, parallel_cfg),
        model_cfg=model_cfg,
        optimizer_cfg=optimizer_cfg,
        parallel_cfg=parallel_cfg,
        stage=stage,
        routers=[m for m in module.modules() if getattr(m, "expert_bias", None) is not None],
        linears=[m for m in module.modules() if cpu.adds_weight_gradients(m)],
        mtp_params=[p for each in modules for name, p in each.named_parameters() if name.startswith("mtp.")],
        data=data,
    )


def _build_stage(model_cfg: ModelConfig, parallel_cfg: ParallelConfig, stage: int) -> nn.Module:
    """This rank's part of the network, or with virtual stages the one of that number."""
    virtual, several = {"ignore_virtual": False, "vp_stage": stage}, parallel_cfg.pipeline > 1
    module = build_model(
        model_cfg,
        pre_process=parallel_state.is_pipeline_first_stage(**virtual),
        post_process=parallel_state.is_pipeline_last_stage(**virtual),
        tp=parallel_cfg.tensor,
        pp=parallel_cfg.pipeline,
        ep=parallel_cfg.expert,
        cp=parallel_cfg.context,
        vp=parallel_cfg.virtual_pipeline,
        vp_stage=stage,
        recompute=parallel_cfg.recompute,
        layout=parallel_cfg.pipeline_layout or (even_layout(model_cfg, parallel_cfg) if several else ""),
    ).to(parallel.device())
    module.config.finalize_model_grads_func = finalize_gradients
    module.config.variable_seq_lengths = parallel_cfg.pipeline > 1  # micro-batches differ in shape
    return module
