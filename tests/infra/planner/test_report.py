"""`r1 plan`: table, chart, JSON, and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from infra import cli
from infra.errors import ConfigError
from infra.planner.config import PlanConfig, PlanSettings
from infra.planner.hardware import ClusterConfig, GpuName
from infra.planner.plan import plan
from infra.planner.published import PUBLISHED
from infra.planner.report import draw, runners_up, table
from modeling.config import ModelConfig
from tests.infra.test_cli import r1
from training.config import ParallelConfig

PROMISED = (
    "params_total params_active kv_bytes_per_token memory_gib_per_gpu tokens_per_s_per_gpu mfu gpu_hours dollars layout"
).split()


def test_the_command_prints_one_json_object_without_torch(tmp_path: Path) -> None:
    done = r1(
        "plan", "model=671b", "cluster=h800x2048", "json=true", f"chart={tmp_path / 'a' / 'plan.png'}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(PROMISED) <= set(said)
    assert said["params_total"] == 671_026_419_200
    assert said["memory_gib_per_gpu"] == pytest.approx(sum(said["memory_gib_by_part"].values()))
    assert said["dollars"] == pytest.approx(2 * (said["gpu_hours"] + 124_000))
    assert (said["layout"]["pipeline"], said["layout"]["expert"], said["layout"]["data"]) == (16, 64, 128)
    assert said["env"]["NCCL_NVLS_ENABLE"] == "0"
    assert Image.open(tmp_path / "a" / "plan.png").size > (600, 300)


def test_short_names_and_full_ones_are_the_same(capsys: pytest.CaptureFixture) -> None:
    hours = []
    for given in (["tokens=1e12", "json=true"], ["plan.tokens=1e12", "plan.json=true"]):
        assert cli.main(["plan", "cluster=gb300x256", "chart=", *given]) == 0
        hours.append(json.loads(capsys.readouterr().out)["gpu_hours"])
    assert hours[0] == hours[1] == pytest.approx(43e3, rel=0.15)  # K GPU hours per 1T tokens, Megatron-Bridge 26.06


def test_the_table_says_everything_and_whether_it_fits() -> None:
    text = table(plan(PUBLISHED[0].config))
    for part in (
        "2048 H800, FP8", "671.0B, 37.55B active, 11.6B more in MTP", "70,272 bytes a token", "Etttt | 14 x tttt | tmL",
        "weights", "gradients", "optimizer", "activations", "kv cache", "buffers", "bubble", "all-to-all, network",
        "data parallel", "tokens/s/GPU", "MFU", "14.8T tokens", "at $2.00 an hour",
    ):  # fmt: skip
        assert part in text, part
    assert "DOES NOT FIT" not in text
    assert max(map(len, text.splitlines())) <= 120
    small = PlanConfig(
        model=ModelConfig.preset("671b"),
        parallel=ParallelConfig(pipeline=8, expert=8),
        cluster=ClusterConfig(gpu=GpuName.h100, gpus=64),
        settings=PlanSettings(),
    )
    assert "DOES NOT FIT" in table(plan(small))


def test_every_model_and_a_search_can_be_told(tmp_path: Path) -> None:
    one = PlanConfig(
        model=ModelConfig.preset("tiny"),
        parallel=ParallelConfig(),
        cluster=ClusterConfig(gpu=GpuName.h100, gpus=1),
        settings=PlanSettings(seq_len=256, global_batch=8),
    )
    result = plan(one)
    assert "pipeline" not in table(result).split("traffic")[1]
    assert draw(result, tmp_path / "tiny.png").stat().st_size > 10_000
    assert len(runners_up([result, result]).splitlines()) == 3


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["cluster=h800x2048", "cluster.gpus=2001"], ["cluster.gpus=2001", "=16 does not divide it", "2000 or 2016"]),
        (["cluster=h800x2048", "cluster.gpus=1040"], ["parallel.expert=64", "65 processes", "set 13 or 65"]),
        (["cluster=h800x2048", "parallel.expert=48"], ["parallel.expert=48", "256 experts", "32 or 64"]),
        (["cluster=h800x2048", "parallel.pipeline=15"], ["parallel.pipeline=15", "DualPipe", "set 14 or 16"]),
        (
            ["cluster=h800x2048", "global_batch=1000"],
            ["plan.global_batch=1000", "128 data-parallel ranks", "896 or 1024"],
        ),
        (["cluster=h800x2048", "global_batch=1024"], ["plan.global_batch=1024", "8 micro-batches", "DualPipe"]),
        (["cluster=h800x2048", "dispatcher=alltoall"], ["plan.fp8_dispatch", "alltoall", "deepep"]),
        (["cluster=h800x2048", "parallel.recompute=[moe]"], ["parallel.recompute=moe", "overlap"]),
        (["cluster=h800x2048", "parallel.recompute=[mlps]"], ["parallel.recompute=mlps", "mlp"]),
        (["cluster=h800x2048", "schedule=megatron"], ["plan.overlap_dispatch", "virtual_pipeline=2"]),
        (["cluster=h800x2048", "precision=bf16"], ["plan.fp8_dispatch", "plan.precision=fp8"]),
        (["cluster=h100x1024", "model=16b"], ["parallel.pipeline_layout=", "61 layers, the model 27"]),
        (["cluster=h100x1024", "parallel.tensor=3"], ["parallel.tensor=3", "128 heads", "2 or 4"]),
        (["cluster=h100x1024", "parallel.tensor=16"], ["parallel.tensor=16", "8 GPUs that NVLink connects"]),
        (["cluster=h100x1024", "plan.dispatch_sms=132"], ["plan.dispatch_sms=132", "132"]),
        (["cluster=h100x1023"], ["cluster=h100x1023", "did you mean h100x1024?"]),
        (["cluster.gpu=h1000"], ["cluster.gpu=h1000", "h800, h100"]),
        (["cluster.gpus=0"], ["cluster.gpus=0", "at least 1"]),
        (["tokens=0"], ["plan.tokens=0", "positive"]),
        (["serch=true"], ["serch=true", "did you mean plan.search"]),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_line(given, parts, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["plan", "chart=", *given]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert all(part in said.err for part in parts), said.err


def test_environment_variables_are_text() -> None:
    with pytest.raises(ConfigError, match="cluster.env.USE_MNNVL=1: environment variables are text; quote it: '1'"):
        ClusterConfig(env={"USE_MNNVL": 1})
