"""The search: what it finds is legal, fits, and is no slower than what people chose."""

import pytest

from infra.errors import ConfigError
from infra.planner.config import PlanConfig, PlanSettings
from infra.planner.hardware import ClusterConfig, GpuName
from infra.planner.plan import check, plan
from infra.planner.published import PUBLISHED
from infra.planner.search import candidates, search
from modeling.config import ModelConfig
from training.config import ParallelConfig


def config(preset: str, gpus: int, gpu: GpuName = GpuName.h100, **settings) -> PlanConfig:
    return PlanConfig(
        model=ModelConfig.preset(preset),
        parallel=ParallelConfig(),
        cluster=ClusterConfig(gpu=gpu, gpus=gpus),
        settings=PlanSettings(**dict(global_batch=512) | settings),
    )


def test_every_candidate_is_legal_and_none_comes_twice() -> None:
    found = list(candidates(config("16b", 8)))
    seen = {(c.parallel.tensor, c.parallel.pipeline, c.parallel.virtual_pipeline, c.parallel.expert,
             c.settings.micro_batch) for c in found}  # fmt: skip
    assert len(seen) == len(found) > 50
    for candidate in found:
        check(candidate)


def test_the_best_fits_and_is_the_fastest_first() -> None:
    found = search(config("16b", 8))
    speeds = [result.tokens_per_s_per_gpu for result in found]
    assert speeds == sorted(speeds, reverse=True) and len(found) == 5
    assert all(result.fits for result in found)
    fastest = max(
        plan(candidate).tokens_per_s_per_gpu for candidate in candidates(config("16b", 8)) if plan(candidate).fits
    )
    assert speeds[0] >= fastest * 0.999


def test_it_is_no_slower_than_what_nvidia_chose_for_gb200() -> None:
    row = next(row for row in PUBLISHED if row.name == "GB200 MXFP8")
    best = search(row.config, keep=1)[0]
    assert best.fits
    assert best.tokens_per_s_per_gpu >= plan(row.config).tokens_per_s_per_gpu


def test_recomputation_is_taken_only_where_memory_asks_for_it() -> None:
    roomy = search(config("v2_lite", 8, gpu=GpuName.gb300), keep=1)[0]
    assert roomy.layout()["recompute"] == []
    tight = search(config("16b", 8, seq_len=32768, global_batch=64), keep=1)[0]
    assert tight.fits and tight.layout()["recompute"]


def test_a_model_too_large_for_the_cluster_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"cluster.gpus=8: the leanest layout takes \d+ of 80 GiB on each; set more"):
        search(config("671b", 8))


def test_no_legal_layout_is_said_so() -> None:
    with pytest.raises(ConfigError, match="cluster.gpus=67: no layout is legal"):
        search(config("16b", 67, global_batch=5))
