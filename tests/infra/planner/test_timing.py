"""Time and traffic: FLOPs add up to the model's, copies to those of random routing, bubbles to the papers' formulas."""

import dataclasses

import numpy as np
import pytest

from infra.planner.config import Dispatcher, Graphs, PlanConfig, PlanSettings, Precision, Schedule
from infra.planner.efficiency import EFFICIENCY, Efficiency
from infra.planner.hardware import ClusterConfig, GpuName
from infra.planner.params import Params
from infra.planner.plan import plan
from infra.planner.published import PUBLISHED
from infra.planner.timing import layer_work, stage_work, time_step
from infra.planner.traffic import data_parallel_bytes, dispatch_bytes, expert_copies
from modeling.config import ModelConfig
from training.config import ParallelConfig
from training.layout import stages

V3 = ModelConfig.preset("671b")
PERFECT = Efficiency(matmul=1.0, attention=1.0, launch_us=0.0, launch_expert_us=0.0)


def config(gpus: int, settings: dict | None = None, model: ModelConfig = V3, **sizes: int) -> PlanConfig:
    return PlanConfig(
        model=model,
        parallel=ParallelConfig(zero1=True, **sizes),
        cluster=ClusterConfig(gpu=GpuName.h100, gpus=gpus),
        settings=PlanSettings(**settings or {}),
    )


def with_settings(cfg: PlanConfig, **changes) -> PlanConfig:
    return dataclasses.replace(cfg, settings=dataclasses.replace(cfg.settings, **changes))


@pytest.mark.parametrize("preset", ["671b", "16b", "v2_lite"])
def test_the_work_is_the_models_flops(preset: str) -> None:
    model = ModelConfig.preset(preset)
    cfg = config(8, dict(precision=Precision.bf16), model=model, expert=8)
    layers = layer_work(cfg, False, PERFECT), layer_work(cfg, True, PERFECT)
    work = stage_work(cfg, stages(model, cfg.parallel)[0], layers, PERFECT)
    rate = cfg.cluster.spec.matmul_tflops * 1e12
    # The flash backward makes the scores anew: 3.5 forward passes of attention instead of 3.
    flops = (work.matmul + work.attention * 3 / 3.5) * rate / 4096
    mtp = model.num_nextn_predict_layers > 0
    assert flops == pytest.approx(model.flops_per_token(4096, mtp=mtp), rel=1e-4)


def test_fp8_leaves_attention_and_head_alone() -> None:
    fp8, bf16 = (layer_work(config(8, dict(precision=p), expert=8), True, PERFECT) for p in Precision)
    gpu = config(8).cluster.spec
    if fp8.matmul > bf16.matmul:
        fp8, bf16 = bf16, fp8
    assert bf16.matmul / fp8.matmul == pytest.approx(gpu.matmul_fp8_tflops / gpu.matmul_tflops)
    assert fp8.attention == bf16.attention
    assert fp8.elementwise > bf16.elementwise  # the casts


def simulated_copies(nodes: int, tokens: int = 2000) -> tuple[float, float]:
    """(nodes met, ranks of 64 met) a token: 4 of 8 groups, then 8 of their 128 experts, at random."""
    rng = np.random.default_rng(0)
    group = rng.permuted(np.tile(np.arange(8), (tokens, 1)), axis=1)[:, :4]
    experts = (group[:, :, None] * 32 + np.arange(32)).reshape(tokens, 128)
    chosen = rng.permuted(experts, axis=1)[:, :8]

    def met(parts: int) -> float:
        return float(np.mean([len(set(row)) for row in (chosen * parts // 256).tolist()]))

    return met(nodes), met(64)


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_copies_are_those_of_node_limited_routing(nodes: int) -> None:
    met, ranks = simulated_copies(nodes)
    copies = expert_copies(V3, 64, 64 // nodes, Dispatcher.deepep)
    assert copies.network == pytest.approx(met * (1 - 1 / nodes), rel=0.02)
    assert copies.nvlink == pytest.approx(ranks * (1 - nodes / 64), rel=0.02)
    # Never more than topk_group nodes (V3 section 2.1.2); sending to each expert on its own is dearer.
    assert met <= 4
    assert expert_copies(V3, 64, 64 // nodes, Dispatcher.alltoall).network == 8 * (1 - 1 / nodes)


def test_ranks_of_one_nvlink_domain_send_nothing_over_the_network() -> None:
    assert expert_copies(V3, 64, 72, Dispatcher.hybridep).network == 0
    assert dispatch_bytes(config(8)) == (0.0, 0.0)


def test_all_to_all_of_deepseek_stays_below_the_node_limit() -> None:
    # FP8 out with a scale for 128 numbers, BF16 back, BF16 both ways backward; at most 4 nodes: 10.1 MB a token over
    # 58 layers when the token's own node counts, too.
    network, _ = dispatch_bytes(PUBLISHED[0].config)
    each = 7168 * (1 + 4 / 128) + 3 * 2 * 7168
    assert network == pytest.approx(3.15 * each, rel=0.01)
    assert 8.5e6 < 58 * network < 58 * 4 * each


def test_data_parallel_traffic_by_hand() -> None:
    cfg = config(1024, tensor=2, pipeline=8, expert=64)
    sent = data_parallel_bytes(cfg, Params(dense=1000, expert=1000))
    assert sent.dense == 1000 * (4 + 1) * 63 / 64  # FP32 gradients out, FP8 weights in, 64 ranks
    assert sent.expert == 1000 * (4 + 1) * 1 / 2


@pytest.mark.parametrize(
    ("sizes", "gpus", "batch", "waiting"),
    [
        (dict(pipeline=16, expert=64), 2048, 15360, 15 / (120 + 15)),  # (p - 1) / m of ideal time
        (dict(tensor=2, pipeline=8, virtual_pipeline=4, expert=64), 1024, 8192, (7 / 4) / (128 + 7 / 4)),
    ],
)
def test_bubbles_are_those_of_the_schedules(sizes: dict, gpus: int, batch: int, waiting: float) -> None:
    step = time_step(config(gpus, dict(global_batch=batch), **sizes))
    busy = step.seconds - step.share["data parallel"] - step.share["optimizer"]
    assert step.share["bubble"] / busy == pytest.approx(waiting)


def test_dualpipe_waits_less_than_1f1b() -> None:
    one = config(2048, pipeline=16, expert=64)
    two = with_settings(one, schedule=Schedule.dualpipe)
    step = time_step(two)
    busy = step.seconds - step.share["data parallel"] - step.share["optimizer"]
    # (p/2 - 1)(F&B + B - 3W) with equal thirds: 7 x 2/3 of a micro-batch against 120 of them.
    assert step.share["bubble"] / (busy - step.share["bubble"]) == pytest.approx(7 * 2 / 3 / 120)
    assert step.bubble < time_step(one).bubble / 2


def test_a_step_is_the_sum_of_its_parts() -> None:
    for row in PUBLISHED:
        step = time_step(row.config)
        assert sum(step.share.values()) == pytest.approx(step.seconds)
        assert min(step.share.values()) >= 0


def test_switches_move_time_the_right_way() -> None:
    cfg = config(1024, dict(global_batch=8192), tensor=2, pipeline=8, virtual_pipeline=4, expert=64)
    base = time_step(cfg).seconds
    for faster in (dict(overlap_dispatch=True), dict(graphs=Graphs.full), dict(fp8_head=True), dict(fp8_dispatch=True)):
        assert time_step(with_settings(cfg, **faster)).seconds < base
    assert time_step(with_settings(cfg, dispatcher=Dispatcher.alltoall)).seconds > base
    for recompute in (["full"], ["mla_up_proj"]):
        slower = dataclasses.replace(cfg, parallel=dataclasses.replace(cfg.parallel, recompute=recompute))
        assert time_step(slower).seconds > base
    better = dataclasses.replace(EFFICIENCY, matmul=0.9)
    assert time_step(cfg, better).seconds < base


def test_hidden_communication_is_paid_in_multiprocessors() -> None:
    cfg = config(1024, dict(global_batch=8192), tensor=2, pipeline=8, virtual_pipeline=4, expert=64)
    plain, few, many = (
        time_step(with_settings(cfg, overlap_dispatch=sms > 0, dispatch_sms=sms)).share for sms in (0, 10, 20)
    )
    assert few["dispatch"] == pytest.approx((1 - EFFICIENCY.hidden) * plain["dispatch"])
    assert few["contention"] == pytest.approx(plain["dispatch"] * 10 / 132)
    assert many["contention"] == pytest.approx(2 * few["contention"])


def test_longer_rows_cost_their_attention() -> None:
    short, long = (plan(config(64, dict(seq_len=s, global_batch=512), pipeline=8, expert=8)) for s in (4096, 32768))
    assert long.tokens_per_s_per_gpu < short.tokens_per_s_per_gpu
    assert long.flops_per_token == V3.flops_per_token(32768, mtp=True)
