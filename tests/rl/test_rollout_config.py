"""Rollout settings that cannot work are refused before any work, with key, value and remedy."""

from pathlib import Path

import pytest

from experiments.config import compose
from infra.errors import ConfigError, R1Error
from modeling.sampling import SamplingConfig
from rl.config import RLConfig, RolloutConfig
from rl.rollout.build import build_engine
from rl.rollout.local import LocalEngine
from tests.training import tiny

GIVEN = ["rl.checkpoint=experiments/base"]


def test_by_default_answers_are_written_on_the_trainer_s_own_weights():
    rollout = compose("zero", GIVEN).rl.rollout
    assert (rollout.engine.name, rollout.placement.name, rollout.one_step_off) == ("local", "colocated", False)
    assert compose("zero", GIVEN).rl.importance_cap == 0 and not compose("zero", GIVEN).sampling.speculative


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rl.rollout.one_step_off=true", "rl.rollout.one_step_off=true: .*set rl.rollout.placement=separate"),
        ("rl.rollout.one_step_off=true rl.rollout.placement=separate rl.rollout.engine=megatron", "whole process"),
        ("rl.rollout.devices=4,5", "rl.rollout.devices=4,5: .*set rl.rollout.placement=separate"),
        ("rl.rollout.devices=one rl.rollout.placement=separate", "rl.rollout.devices=one: is no list of numbers"),
        ("rl.rollout.gpu_memory=1.5", "rl.rollout.gpu_memory=1.5"),
        ("rl.rollout.cache_gib=0", "rl.rollout.cache_gib=0"),
        ("rl.rollout.vllm.retries=-1", "rl.rollout.vllm.retries=-1"),
        ("rl.rollout.vllm.tensor=0", "rl.rollout.vllm.tensor=0"),
        ("rl.rollout.vllm.url=host:8000", "rl.rollout.vllm.url=host:8000: is no address"),
        ("rl.rollout.vllm.url=http://a:1", "rl.rollout.vllm.url=http://a:1: .*set rl.rollout.placement=separate"),
        (
            "rl.rollout.vllm.url=http://a:1 rl.rollout.placement=separate rl.rollout.vllm.sync=restart",
            "rl.rollout.vllm.sync=restart: .*not ours to restart",
        ),
        ("rl.importance_cap=2 sampling.temperature=0.7", "rl.importance_cap=2.*temperature=0.7"),
        (
            "sampling.speculative=true rl.rollout.engine=vllm",
            "sampling.speculative=true: .*set rl.rollout.engine=local",
        ),
    ],
)
def test_what_cannot_work_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        compose("zero", [*GIVEN, *given.split()])


def test_drafts_need_an_mtp_module():
    with pytest.raises(ConfigError, match="sampling.speculative=true: .*num_nextn_predict_layers=0"):
        compose("pretrain", ["sampling.speculative=true", "model.num_nextn_predict_layers=0"])


def engine(rollout: dict) -> object:
    cfg = RLConfig(rollout=RolloutConfig(**rollout))
    state = tiny.state()
    return build_engine(cfg, state, tokenizer(), SamplingConfig(), seed=0, run_dir=Path("nowhere"))


def tokenizer():
    from modeling.tokenizer import Tokenizer

    return Tokenizer.train(["a"], 262)


def test_what_this_machine_lacks_is_told():
    from rl.config import EngineName, Placement

    with pytest.raises(ConfigError, match="rl.rollout.engine=megatron: .*CUDA.*set rl.rollout.engine=local"):
        engine(dict(engine=EngineName.megatron))
    with pytest.raises(ConfigError, match="rl.rollout.devices=3: this process sees 0 CUDA devices"):
        engine(dict(placement=Placement.separate, devices="3"))
    with pytest.raises(R1Error, match="rl.rollout.vllm.python=.*run make vllm-env"):
        engine(dict(engine=EngineName.vllm))
    assert isinstance(engine(dict(placement=Placement.separate)), LocalEngine)
