"""The fastest legal layouts that fit: every layout is tried, none is guessed."""

import dataclasses
from collections.abc import Iterator

from infra.errors import ConfigError
from infra.planner.config import PlanConfig, Schedule
from infra.planner.efficiency import EFFICIENCY, Efficiency
from infra.planner.memory import memory
from infra.planner.plan import Plan, check, plan
from training.layout import divisors

TENSOR = (1, 2, 4, 8)
VIRTUAL = (1, 2, 4, 8)
MICRO_BATCHES = (1, 2, 4)
RECOMPUTE: tuple[tuple[str, ...], ...] = (
    (),
    ("layernorm", "moe_act"),
    ("mla_up_proj", "mlp"),
    ("mla_up_proj", "mlp", "layernorm", "moe_act"),
    ("mla_up_proj", "mlp", "layernorm", "moe"),
    ("full",),
)
"From nothing to everything; more saves memory and takes time, so the first that fits is the fastest."


def search(cfg: PlanConfig, efficiency: Efficiency = EFFICIENCY, keep: int = 5) -> list[Plan]:
    """The `keep` best plans, the fastest first. Sizes, micro-batch and recomputation vary, all else is cfg's.

    Raises ConfigError where no layout is legal and fits.
    """
    found, tightest = [], None
    for candidate in candidates(cfg):
        fitting, need = _first_that_fits(candidate)
        tightest = need if tightest is None else min(tightest, need)
        if fitting:
            found.append(plan(fitting, efficiency))
    if not found:
        gpus, gib = cfg.cluster.gpus, cfg.cluster.spec.memory_gib
        if tightest is None:
            problem, remedy = "no layout is legal for this model and plan.global_batch", "set a power of two"
        else:
            problem = f"the leanest layout takes {tightest:.0f} of {gib:.0f} GiB on each"
            remedy = "set more GPUs, or a larger one"
        raise ConfigError("cluster.gpus", gpus, problem, remedy)
    return sorted(found, key=lambda p: -p.tokens_per_s_per_gpu)[:keep]


def candidates(cfg: PlanConfig) -> Iterator[PlanConfig]:
    """Every legal layout of the cluster for the model, without recomputation."""
    gpus, model, dual = cfg.cluster.gpus, cfg.model, cfg.settings.schedule is Schedule.dualpipe
    for tensor in [size for size in TENSOR if gpus % size == 0]:
        for pipeline in [size for size in divisors(gpus // tensor) if size <= model.num_hidden_layers]:
            if dual and pipeline % 2:
                continue
            for virtual in (1,) if dual or pipeline == 1 else VIRTUAL:
                for expert in divisors(model.n_routed_experts):
                    for micro_batch in MICRO_BATCHES:
                        sizes = dict(tensor=tensor, pipeline=pipeline, virtual_pipeline=virtual, expert=expert)
                        candidate = _candidate(cfg, micro_batch, **sizes)
                        if candidate:
                            yield candidate


def _candidate(cfg: PlanConfig, micro_batch: int, **sizes: int) -> PlanConfig | None:
    """That layout, or None where it is illegal."""
    try:
        parallel = dataclasses.replace(cfg.parallel, **sizes, pipeline_layout="", zero1=True, recompute=[])
        settings = dataclasses.replace(cfg.settings, micro_batch=micro_batch)
        candidate = dataclasses.replace(cfg, parallel=parallel, settings=settings)
        check(candidate)
    except ConfigError:
        return None
    return candidate


def _first_that_fits(cfg: PlanConfig) -> tuple[PlanConfig | None, float]:
    """(with as little recomputation as memory asks for, or None; the least memory seen, in GiB)."""
    need = 0.0
    for recompute in RECOMPUTE:
        if cfg.settings.overlap_dispatch and {"full", "moe"} & set(recompute):
            break  # what is overlapped cannot be recomputed
        candidate = dataclasses.replace(cfg, parallel=dataclasses.replace(cfg.parallel, recompute=list(recompute)))
        need = memory(candidate).total
        if need <= cfg.cluster.spec.memory_gib:
            return candidate, need
    return None, need
