"""RolloutConfig -> the engine it asks for."""

import os
from pathlib import Path

import torch

from infra.errors import ConfigError
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import EngineName, Placement, RLConfig
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
    if rollout.engine is EngineName.vllm:
        from rl.rollout.vllm import VLLMEngine

        engine = VLLMEngine(rollout, model_cfg, tokenizer, sampling, seed=seed, run_dir=run_dir)
    elif rollout.engine is EngineName.megatron:
        from rl.rollout.megatron import MegatronEngine

        engine = MegatronEngine(
            rollout, model_cfg, state.parallel_cfg, tokenizer, sampling, seed=seed, max_rows=cfg.rollout_rows
        )
    else:
        copies = rollout.placement is Placement.separate
        engine = LocalEngine(
            state.module,
            model_cfg,
            tokenizer,
            sampling,
            seed=seed,
            max_rows=cfg.rollout_rows,
            copies=copies,
            device=_device(rollout.devices),
        )
        engine.version = state.updates
        return engine
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
