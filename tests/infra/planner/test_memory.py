"""Memory: against figures worked out by hand, and against what is known of runs that fitted."""

import dataclasses

import pytest

from infra.planner.config import Grads, PlanConfig, PlanSettings, Schedule
from infra.planner.hardware import ClusterConfig, GpuName
from infra.planner.memory import GIB, each_rank, memory, rank_stages, under_way
from infra.planner.published import PUBLISHED
from infra.planner.tensors import kept_bytes, layer_tensors
from modeling.config import ModelConfig
from training.config import ParallelConfig
from training.layout import stages

V3 = ModelConfig.preset("671b")
NO_MTP = dataclasses.replace(V3, num_nextn_predict_layers=0)
MOE = layer_tensors(V3, moe=True)


def config(gpus: int, model: ModelConfig = NO_MTP, settings: dict | None = None, **sizes: int) -> PlanConfig:
    return PlanConfig(
        model=model,
        parallel=ParallelConfig(zero1=True, **sizes),
        cluster=ClusterConfig(gpu=GpuName.h100, gpus=gpus),
        settings=PlanSettings(**settings or {}),
    )


def test_a_moe_layer_of_671b_keeps_what_the_estimator_says() -> None:
    # Megatron-MoE-ModelZoo's deepseek_mem_estimate.py for 671B in BF16, per token; and what each recomputation saves.
    whole = kept_bytes(MOE, ())
    assert whole == 457_728
    assert whole - kept_bytes(MOE, ["mla_up_proj"]) == 131_072
    assert whole - kept_bytes(MOE, ["moe_act"]) == 32_768
    assert whole - kept_bytes(MOE, ["layernorm"]) == 28_672
    assert kept_bytes(MOE, ["full"]) == 14_336
    assert whole * 4096 / GIB == pytest.approx(1.75, rel=5e-3)


def test_recomputing_the_experts_keeps_their_input_alone() -> None:
    # input, its norm, residual and its norm: 4 x 14,336; latents 2 x 2 x (1536 + 512) x 1; q, k, v; output; statistics.
    attention = 4 * 14_336 + 4 * (1536 + 512) + 2 * (2 * 128 * 192 + 128 * 128) + 2 * 128 * 128 + 4 * 128
    assert kept_bytes(MOE, ["moe"]) == attention


def test_fp8_keeps_inputs_of_products_in_a_byte() -> None:
    # In a byte: normed input, latents, permuted tokens, both SwiGLU outputs; the attention output once more, in a byte.
    saved = 7168 + 1536 + 512 + 8 * 7168 + 9 * 2048 - 16384
    assert kept_bytes(MOE, ()) - kept_bytes(MOE, (), fp8=True) == saved
    inputs = 9 * 4096  # of shared and routed SwiGLU
    assert kept_bytes(MOE, (), fp8=True) - kept_bytes(MOE, (), fp8=True, fp8_swiglu_input=True) == inputs


@pytest.mark.parametrize(
    ("gpus", "sizes", "gib"),
    [
        (1024, dict(tensor=2, pipeline=8, expert=64), 18.0),
        (256, dict(pipeline=2, expert=32), 124.0),
        (256, dict(pipeline=4, expert=64), 58.0),
    ],
)
def test_weights_gradients_and_optimiser_are_6_and_8_over_dp_bytes_a_parameter(gpus, sizes, gib) -> None:
    # 2 + 4 bytes, and 8 cut over the ranks that hold the same: 653.9B expert and 17.1B other parameters, average rank.
    ranks = each_rank(config(gpus, **sizes))
    mean = sum(m.weights + m.gradients + m.optimizer for m in ranks) / len(ranks)
    assert mean == pytest.approx(gib, rel=0.025)  # tensor ranks repeat the down-projections, which the figure forgets


def test_without_zero1_the_optimiser_is_whole_and_types_count() -> None:
    cfg = config(64, pipeline=8, expert=8)
    whole = dataclasses.replace(cfg, parallel=dataclasses.replace(cfg.parallel, zero1=False))
    plain = each_rank(whole)[1]
    assert plain.optimizer == pytest.approx(4 * plain.weights)  # 8 bytes against 2
    fp32 = dataclasses.replace(whole, settings=PlanSettings(bf16_moments=False, grads=Grads.bf16))
    assert each_rank(fp32)[1].optimizer == pytest.approx(6 * plain.weights)
    assert each_rank(fp32)[1].gradients == pytest.approx(plain.gradients / 2)


def test_micro_batches_under_way_follow_the_schedules() -> None:
    plain = config(2048, pipeline=16, expert=64)
    assert [under_way(plain, rank) for rank in (0, 15)] == [[16], [1]]
    # Interleaved: L (1 + (p - 1) / (p v)) layers on the first rank (Megatron-LM, arXiv 2104.04473, section 2.2).
    wide = config(1024, tensor=2, pipeline=8, virtual_pipeline=4, expert=64, settings=dict(global_batch=8192))
    layers = sum(under_way(wide, 0)) * 61 / 32
    assert layers == pytest.approx(61 * (1 + 7 / 32))
    dual = dataclasses.replace(plain, settings=PlanSettings(schedule=Schedule.dualpipe))
    assert [sum(under_way(dual, rank)) for rank in range(16)] == [17] * 16
    few = config(256, pipeline=16, expert=16, settings=dict(global_batch=64))
    assert under_way(few, 0) == [4]  # no more than there are


def test_dualpipe_holds_a_stage_from_each_end() -> None:
    dual = config(2048, V3, pipeline=16, expert=64, settings=dict(schedule=Schedule.dualpipe))
    every = stages(dual.model, dual.parallel)
    assert [stage.layers.start for stage in rank_stages(dual, every, 1)] == [4, 56]
    one = dataclasses.replace(dual, settings=PlanSettings())
    assert each_rank(dual)[7].weights == pytest.approx(2 * each_rank(one)[7].weights)


def test_tensor_ranks_share_activations_and_sequences_lengthen_them() -> None:
    one, two = (config(512, pipeline=8, expert=64, tensor=size) for size in (1, 2))
    long = dataclasses.replace(one, settings=PlanSettings(seq_len=8192))
    first, shared, longer = (each_rank(cfg)[0].activations for cfg in (one, two, long))
    assert (first / shared, longer / first) == pytest.approx((2, 2))


def test_the_kv_cache_holds_latents_alone() -> None:
    one = config(8, expert=8, settings=dict(kv_tokens=32 * 1024))
    assert memory(one).kv_cache * GIB == 32 * 1024 * 70_272  # 2.30 GB
    assert memory(config(8, expert=8)).kv_cache == 0


def test_deepseek_trained_on_80_gb_without_tensor_parallelism_and_not_without_its_savings() -> None:
    # V3 section 3.2.3: recomputation, FP8 caches and BF16 moments are what made tensor parallelism superfluous.
    published = PUBLISHED[0].config
    room = published.cluster.spec.memory_gib
    assert published.parallel.tensor == 1
    assert 60 < memory(published).total < room
    for recompute, change in (([], {}), (["layernorm"], dict(fp8_swiglu_input=False))):
        settings = dataclasses.replace(published.settings, **change)
        parallel = dataclasses.replace(published.parallel, recompute=recompute)
        wasteful = dataclasses.replace(published, settings=settings, parallel=parallel)
        assert memory(wasteful).total > room


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_every_published_run_fits(row) -> None:
    assert memory(row.config).total < row.cluster.spec.memory_gib
