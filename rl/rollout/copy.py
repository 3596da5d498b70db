"""A second network with weights of its own, for a sampler that does not take turns with the trainer."""

import torch
from torch import nn

from modeling.build import build_model
from modeling.config import ModelConfig
from rl.policy import weights_of
from training import parallel
from training.config import ParallelConfig

from megatron.core import parallel_state  # isort: skip  -- after the CPU layer, which parallel installs


def second_network(cfg: ModelConfig, layout: ParallelConfig, device: torch.device | None = None) -> nn.Module:
    """This rank's part of the network, without gradients, its weights not yet copied; every rank calls it.

    device: the trainer's by default.
    """
    module = build_model(
        cfg,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        tp=layout.tensor,
        pp=layout.pipeline,
        ep=layout.expert,
        cp=layout.context,
    )
    return module.to(device or parallel.device()).eval().requires_grad_(False)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and the routers' bias from one network to another of the same shape, across devices."""
    theirs = dict(weights_of(source))
    for name, tensor in weights_of(target):
        tensor.copy_(theirs[name])
