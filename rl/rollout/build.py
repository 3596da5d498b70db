"""RolloutConfig -> the engine it asks for."""

import os
from pathlib import Path

import torch

from infra.errors import ConfigError
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import EngineName, Placement, RLConfig
from rl.rollout.copy import second_network
from rl.rollout.local import LocalEngine
from rl.rollout.sharing import SharingEngine
from training import parallel
from training.state import TrainState


def build_engine(
    cfg: RLConfig, state: TrainState, tokenizer: Tokenizer, sampling: SamplingConfig, *, seed: int, run_dir: Path
) -> SharingEngine:
    """An engine that has the state's weights; every rank calls it. run_dir: where a server's weights and log go.

    Raises ConfigError where this machine cannot run the engine.
    """
    rollout, model_cfg = cfg.rollout, state.model_cfg
    layout = state.parallel_cfg
    separate = rollout.placement is Placement.separate
    if rollout.one_step_off and layout.tensor * layout.pipeline * layout.expert > 1:
        sizes = f"tensor={layout.tensor} pipeline={layout.pipeline} expert={layout.expert}"
        problem = f"beside it the sampler's ranks would talk over the trainer's groups (parallel {sizes})"
        raise ConfigError("rl.rollout.one_step_off", "true", problem, "set them to 1, or rl.rollout.engine=vllm")
    if rollout.engine is EngineName.vllm:
        from rl.rollout.vllm import VLLMEngine

        engine = VLLMEngine(rollout, model_cfg, tokenizer, sampling, seed=seed, run_dir=run_dir)
    elif rollout.engine is EngineName.megatron:
        from rl.rollout.megatron import MegatronEngine

        engine = MegatronEngine(rollout, model_cfg, layout, tokenizer, sampling, seed=seed, max_rows=cfg.rollout_rows)
    elif separate:
        module = second_network(model_cfg, layout, _device(rollout.devices))
        engine = LocalEngine(module, model_cfg, tokenizer, sampling, seed=seed, max_rows=cfg.rollout_rows, copies=True)
    else:
        return LocalEngine(state.module, model_cfg, tokenizer, sampling, seed=seed, max_rows=cfg.rollout_rows)
    engine.load_weights(state.module, version=state.updates)
    return engine


def _device(devices: str) -> torch.device | None:
    """The device of this rank's sampler among those of rl.rollout.devices."""
    if not devices:
        return None
    numbers = [int(number) for number in devices.split(",")]
    number = numbers[int(os.environ.get("LOCAL_RANK", parallel.rank())) % len(numbers)]
    there = torch.cuda.device_count()
    if number >= there:
        problem = f"this process sees {there} CUDA devices"
        raise ConfigError("rl.rollout.devices", devices, problem, "set some of them, or rl.rollout.devices=")
    return torch.device("cuda", number)
