"""The planner against what others measured: one set of efficiencies, no row with its own."""

import dataclasses

import pytest

from experiments.config import compose
from infra.planner.config import PlanConfig
from infra.planner.plan import plan
from infra.planner.published import PUBLISHED, Published
from infra.planner.report import compare, compare_table

BEST = {
    "h800x2048": "H800 FP8",
    "h100x1024": "H100 FP8",
    "b200x256": "B200 MXFP8",
    "b300x256": "B300 MXFP8",
    "gb200x256": "GB200 MXFP8",
    "gb300x256": "GB300 MXFP8, batch 15360",
}
"The published run that each cluster's preset is."
BY_NAME = {row.name: row for row in PUBLISHED}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_planned_throughput_is_within_15_percent_of_the_published(row: Published) -> None:
    assert plan(row.config).tokens_per_s_per_gpu == pytest.approx(row.tokens_per_s, rel=0.15)


def test_rows_that_set_the_efficiencies_are_not_the_only_ones() -> None:
    tested = [row for row in PUBLISHED if not row.fitted]
    assert len(tested) >= 6
    assert {row.cluster.gpu.name for row in tested} == {"b200", "b300", "gb200", "gb300"}


def test_v3_table_1_comes_out() -> None:
    cfg = compose("plan", ["model=671b", "cluster=h800x2048"])
    result = plan(PlanConfig(model=cfg.model, parallel=cfg.parallel, cluster=cfg.cluster, settings=cfg.plan))
    assert result.gpu_hours == pytest.approx(2.664e6, rel=0.05)
    assert result.gpu_hours_total - result.gpu_hours == 119e3 + 5e3
    assert result.dollars == pytest.approx(5.576e6, rel=0.05)
    assert result.days == pytest.approx(54.2, rel=0.05)  # 14.8T tokens at 3.7 days a trillion
    assert result.step.seconds == pytest.approx(19.9, rel=0.05)
    assert (result.params_total, result.kv_bytes_per_token) == (671_026_419_200, 70_272)
    assert result.params_active == pytest.approx(37.55e9, rel=1e-3)
    assert result.fits
    assert result.layout()["stages"].count("|") == 15


def test_published_hours_and_published_throughput_are_the_same_figure() -> None:
    row = BY_NAME["H800 FP8"]
    assert 14.8e12 / row.tokens_per_s / 3600 == pytest.approx(2.664e6)
    # arXiv 2505.09343: 385 TFLOPS and 38.9 % of the BF16 peak, without the MTP module.
    assert row.tokens_per_s * row.config.model.flops_per_token(4096) / 1e12 == pytest.approx(385, rel=0.01)


@pytest.mark.parametrize("cluster", BEST)
def test_a_clusters_preset_is_its_best_published_run(cluster: str) -> None:
    cfg, row = compose("plan", [f"cluster={cluster}"]), BY_NAME[BEST[cluster]]
    assert (cfg.model, cfg.parallel) == (row.config.model, row.parallel)
    assert (cfg.cluster.gpu, cfg.cluster.gpus) == (row.cluster.gpu, row.cluster.gpus)
    ours = {"context_extension_gpu_hours": 0.0, "post_training_gpu_hours": 0.0}
    assert dataclasses.replace(cfg.plan, **ours) == row.settings
    same_gpu = [other.tokens_per_s for other in PUBLISHED if other.cluster.gpu is row.cluster.gpu]
    zoo_repeats_it = 0.04 if cluster == "h100x1024" else 0
    assert row.tokens_per_s >= max(same_gpu) * (1 - zoo_repeats_it)
    assert cfg.cluster.env["PYTORCH_CUDA_ALLOC_CONF"].startswith("expandable_segments:True")
    # Tensor parallelism on Hopper asserts one connection; overlap on Blackwell wants 32.
    hopper = cfg.cluster.gpu.name.startswith("h")
    assert cfg.cluster.env["CUDA_DEVICE_MAX_CONNECTIONS"] == ("1" if hopper else "32")


@pytest.mark.parametrize("cluster", BEST)
def test_a_clusters_preset_goes_with_the_cluster_scale(cluster: str) -> None:
    cfg = compose("pretrain", ["scale=cluster", f"cluster={cluster}"])
    assert (cfg.scale, cfg.model.hidden_size, cfg.parallel.zero1) == ("cluster", 7168, True)


def test_the_table_shows_every_row_with_its_ratio() -> None:
    results = compare()
    text = compare_table(results)
    for row, planned, ratio in results:
        line = next(line for line in text.splitlines() if line.startswith(f"{row.name}  "))
        assert f"{ratio:.2f}" in line and f"{planned.tokens_per_s_per_gpu:,.0f}" in line and row.source in line
