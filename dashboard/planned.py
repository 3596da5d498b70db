"""The planner's form: presets and published clusters by name -> PlanConfig. Reads the YAML of those clusters."""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from infra.planner.config import PlanConfig, PlanSettings
from infra.planner.hardware import ClusterConfig, GpuName
from modeling.config import ModelConfig
from training.config import ParallelConfig

CLUSTERS = Path(__file__).resolve().parents[1] / "experiments" / "conf" / "cluster"
MODELS = ("671b", "16b", "v2_lite", "small", "tiny")
"Presets of DeepSeek's family; the planner knows no other."


def clusters() -> list[str]:
    """Names of the published clusters."""
    return sorted(path.stem for path in CLUSTERS.glob("*.yaml"))


def published(name: str) -> tuple[ClusterConfig, ParallelConfig, PlanSettings]:
    """A published cluster with its best published layout, as `r1 plan cluster=<name>` takes it."""
    if name not in clusters():
        raise ValueError(f"{name} is none of {', '.join(clusters())}")
    told = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    return (
        _made(ClusterConfig, told.get("cluster", {})),
        _made(ParallelConfig, told.get("parallel", {})),
        _made(PlanSettings, told.get("plan", {})),
    )


def _made(kind: type, fields: dict[str, Any]) -> Any:
    """A dataclass from plain values, enum members by their name."""
    kinds = {f.name: f.type for f in dataclasses.fields(kind)}
    given = {}
    for name, value in fields.items():
        enum = kinds[name] if isinstance(kinds[name], type) and issubclass(kinds[name], Enum) else None
        given[name] = enum[value] if enum else value
    return kind(**given)


def config(
    model: str,
    cluster: ClusterConfig,
    parallel: ParallelConfig,
    settings: PlanSettings,
    *,
    gpu: str,
    gpus: int,
    sizes: dict[str, int],
    changed: dict[str, Any],
) -> PlanConfig:
    """What the form says, on top of a published cluster. ConfigError where it cannot work.

    sizes: of ParallelConfig; where one differs from the published ones, stages are shared out evenly.
    """
    same = all(getattr(parallel, name) == value for name, value in sizes.items())
    layout = parallel.pipeline_layout if same else ""
    return PlanConfig(
        model=ModelConfig.preset(model),
        cluster=dataclasses.replace(cluster, gpu=GpuName[gpu], gpus=gpus),
        parallel=dataclasses.replace(parallel, **sizes, pipeline_layout=layout),
        settings=dataclasses.replace(settings, **changed),
    )
