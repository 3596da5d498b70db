"""Throughputs that others published for DeepSeek-V3, as plans, to hold the model against (`r1 plan published=true`).

Sources: V3 = DeepSeek-V3 report, sections 3.1 and 4.2, table 1; MB = NVIDIA-NeMo/Megatron-Bridge, performance summary
of the release named, sizes and switches from that release's recipe (perf_recipes/deepseek/*, before 2026-06
scripts/performance/configs/deepseek/*); Zoo, MLdev = the Megatron examples named in the row.

Of Zoo's and MLdev's runs the recipe was not at hand: the switches are those of Bridge's row of the same layout. For
GB300 in 25.11 table and recipe give different sizes: the table's are here. NVIDIA's runs read mock data and force an
even expert load; DeepSeek's is the real one, and nothing here tells apart what an uneven load costs it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.planner.config import Dispatcher, Grads, Graphs, PlanConfig, PlanSettings, Precision, Schedule
from infra.planner.hardware import ClusterConfig, GpuName
from modeling.config import ModelConfig
from training.config import ParallelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published throughput and the run it was measured on."""

    name: str
    source: str
    tokens_per_s: float
    "Per GPU."
    cluster: ClusterConfig
    parallel: ParallelConfig
    settings: PlanSettings
    mtp: bool = True
    "Whether the MTP module was trained."
    fitted: bool = True
    "Whether efficiency.py was fitted to this row; the others test it."

    @property
    def config(self) -> PlanConfig:
        """The run as a plan."""
        model = ModelConfig.preset("671b")
        if not self.mtp:
            model = dataclasses.replace(model, num_nextn_predict_layers=0)
        return PlanConfig(model=model, parallel=self.parallel, cluster=self.cluster, settings=self.settings)


def _layout(
    tensor: int, pipeline: int, virtual: int, expert: int, layout: str = "", recompute: Sequence[str] = ()
) -> ParallelConfig:
    return ParallelConfig(
        tensor=tensor,
        pipeline=pipeline,
        virtual_pipeline=virtual,
        expert=expert,
        pipeline_layout=layout,
        recompute=list(recompute),
        zero1=True,
    )


def _bridge(**changes: Any) -> PlanSettings:
    """What NVIDIA's benchmarks have in common: BF16 gradients, HybridEP; partial graphs on NVL72 before 26.06."""
    common: dict[str, Any] = dict(global_batch=4096, grads=Grads.bf16, dispatcher=Dispatcher.hybridep)
    return PlanSettings(**common | changes)


def _row(name: str, gpu: str, gpus: int, tokens_per_s: float, source: str, **rest: Any) -> Published:
    cluster = ClusterConfig(gpu=GpuName[gpu], gpus=gpus)
    return Published(name=name, cluster=cluster, tokens_per_s=tokens_per_s, source=source, **rest)


_WIDE = "Et|(tt|)*30mL"
_NVL72 = "Et*4|(t*4|)*14tmL"
_H100 = dict(global_batch=8192, overlap_grad_reduce=False)
_OVERLAP = dict(overlap_dispatch=True, dispatcher=Dispatcher.deepep)
_26_08 = dict(overlap_dispatch=True, dispatch_sms=32, graphs=Graphs.full, fp8_head=True)
PUBLISHED: tuple[Published, ...] = (
    _row(
        "H800 FP8",
        "h800",
        2048,
        1e12 / (180e3 * 3600),
        "V3: 180K GPU hours per 1T tokens, real data",
        parallel=_layout(1, 16, 1, 64, recompute=["mla_up_proj", "layernorm", "moe_act"]),
        settings=PlanSettings(
            schedule=Schedule.dualpipe,
            overlap_dispatch=True,
            fp8_dispatch=True,
            fp8_swiglu_input=True,
        ),
    ),
    _row(
        "H100 FP8",
        "h100",
        1024,
        1297,
        "MB 25.09",
        parallel=_layout(2, 8, 4, 64, _WIDE, recompute=["mla_up_proj", "mlp"]),
        settings=_bridge(**_H100, **_OVERLAP),
    ),
    _row(
        "H100 FP8, Zoo",
        "h100",
        1024,
        1343,
        "Zoo issue 5, 350 TFLOPS",
        parallel=_layout(2, 8, 4, 64, _WIDE, recompute=["mla_up_proj", "mlp"]),
        settings=_bridge(**_H100, **_OVERLAP),
    ),
    _row(
        "H100 BF16",
        "h100",
        1024,
        1061,
        "MB card 2026-08-15",
        parallel=_layout(2, 8, 4, 64, _WIDE, recompute=["mla_up_proj", "mlp"]),
        settings=_bridge(**_H100 | dict(global_batch=16384), precision=Precision.bf16),
    ),
    _row(
        "B200 MXFP8",
        "b200",
        256,
        3328,
        "MB 26.04.01",
        parallel=_layout(1, 8, 2, 32, _NVL72, recompute=["mla_up_proj", "mlp"]),
        settings=_bridge(**_OVERLAP, dispatch_sms=16, graphs=Graphs.partial),
    ),
    _row(
        "B200 MXFP8, MLdev",
        "b200",
        256,
        777e12 / 260.6e9,
        "MLdev README, 777 TFLOPS",
        parallel=_layout(1, 8, 2, 32, _NVL72, recompute=["mla_up_proj", "mlp"]),
        settings=_bridge(**_OVERLAP, dispatch_sms=16, global_batch=2048),
    ),
    _row(
        "B300 MXFP8",
        "b300",
        256,
        3541,
        "MB 26.06",
        parallel=_layout(1, 8, 1, 8, recompute=["mla_up_proj"]),
        settings=_bridge(micro_batch=2, graphs=Graphs.partial),
    ),
    _row(
        "GB200 MXFP8",
        "gb200",
        256,
        4912,
        "MB 26.08",
        parallel=_layout(1, 4, 4, 64, recompute=["mla_up_proj"]),
        settings=_bridge(**_26_08),
    ),
    _row(
        "GB200 BF16",
        "gb200",
        256,
        3139,
        "MB 25.11",
        parallel=_layout(1, 4, 4, 64, recompute=["mla_up_proj"]),
        settings=_bridge(precision=Precision.bf16, graphs=Graphs.partial),
        mtp=False,
    ),
    _row(
        "GB300 MXFP8",
        "gb300",
        256,
        6288,
        "MB 26.08",
        parallel=_layout(1, 2, 8, 32, _NVL72),
        settings=_bridge(**_26_08, fp8_attention=True),
    ),
    _row(
        "GB300 MXFP8, batch 15360",
        "gb300",
        256,
        6422,
        "MB 26.06",
        parallel=_layout(1, 2, 8, 32, _NVL72),
        settings=_bridge(**_26_08, fp8_attention=True, global_batch=15360),
    ),
    _row(
        "GB300 BF16",
        "gb300",
        256,
        3848,
        "MB 25.11",
        parallel=_layout(1, 2, 4, 32, recompute=["moe_act"]),
        settings=_bridge(precision=Precision.bf16, graphs=Graphs.partial),
        mtp=False,
    ),
    _row(
        "GB300 MXFP8, 26.04",
        "gb300",
        256,
        4992,
        "MB 26.04.01",
        parallel=_layout(1, 2, 8, 32, _NVL72, recompute=["mla_up_proj"]),
        settings=_bridge(micro_batch=2),
        fitted=False,
    ),
    _row(
        "GB200 MXFP8, 26.04",
        "gb200",
        256,
        4256,
        "MB 26.04.01",
        parallel=_layout(1, 4, 4, 64, recompute=["mlp"]),
        settings=_bridge(graphs=Graphs.partial),
        fitted=False,
    ),
    _row(
        "GB300 MXFP8, 25.11",
        "gb300",
        256,
        4357,
        "MB 25.11",
        parallel=_layout(1, 2, 4, 32, recompute=["moe_act"]),
        settings=_bridge(graphs=Graphs.partial),
        mtp=False,
        fitted=False,
    ),
    _row(
        "GB200 MXFP8, 25.11",
        "gb200",
        256,
        4018,
        "MB 25.11",
        parallel=_layout(1, 8, 4, 32, recompute=["mla_up_proj"]),
        settings=_bridge(graphs=Graphs.partial),
        mtp=False,
        fitted=False,
    ),
    _row(
        "B200 MXFP8, 26.04",
        "b200",
        256,
        2815,
        "MB 26.04",
        parallel=_layout(1, 16, 1, 8, recompute=["mla_up_proj"]),
        settings=_bridge(),
        fitted=False,
    ),
    _row(
        "B300 MXFP8, 26.04",
        "b300",
        256,
        3131,
        "MB 26.04",
        parallel=_layout(1, 16, 1, 8, recompute=["mla_up_proj"]),
        settings=_bridge(),
        fitted=False,
    ),
)
