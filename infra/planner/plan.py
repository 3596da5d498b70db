"""plan(): from a configuration to what it needs, takes and costs."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError
from infra.planner.config import Dispatcher, PlanConfig, Schedule
from infra.planner.efficiency import EFFICIENCY, Efficiency
from infra.planner.memory import Memory, memory, micro_batches, rank_stages
from infra.planner.params import rank_params
from infra.planner.timing import Step, time_step
from infra.planner.traffic import data_parallel_bytes, dispatch_bytes, hop_bytes, tensor_bytes
from training.layout import check_batch, check_model, check_world, data_size, even_layout, expert_data_size, stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one GPU sends."""

    all_to_all_network: float
    "Bytes a token to experts and back between NVLink domains, all layers, forward and backward."
    all_to_all_nvlink: float
    "The same over NVLink."
    tensor_nvlink: float
    "Bytes a token of tensor-parallel collectives, all layers."
    data_parallel: float
    "Bytes a step to reduce gradients and gather weights."
    pipeline_hop: float
    "Bytes of a micro-batch to the next stage."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run needs and costs."""

    config: PlanConfig
    params_total: int
    "Without the MTP modules, as published (671.0e9)."
    params_active: int
    params_mtp: int
    "Of the MTP modules, beyond params_total."
    kv_bytes_per_token: int
    "Of the latent cache in BF16."
    memory: Memory
    "Of the fullest GPU."
    traffic: Traffic
    step: Step
    flops_per_token: float
    "Forward and backward, causal, MTP included where trained; recomputation does not count."

    @property
    def fits(self) -> bool:
        """Whether the fullest GPU has room."""
        return self.memory.total <= self.config.cluster.spec.memory_gib

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Throughput of one GPU."""
        settings = self.config.settings
        return settings.global_batch * settings.seq_len / self.step.seconds / self.config.cluster.gpus

    @property
    def tflops_per_gpu(self) -> float:
        """Model FLOPs, as Megatron logs them."""
        return self.tokens_per_s_per_gpu * self.flops_per_token / 1e12

    @property
    def mfu(self) -> float:
        """Of the BF16 peak, whatever the precision."""
        return self.tflops_per_gpu / self.config.cluster.spec.peak_tflops

    @property
    def gpu_hours(self) -> float:
        """Of pre-training, without failures and waiting."""
        return self.config.settings.tokens / self.tokens_per_s_per_gpu / 3600

    @property
    def gpu_hours_total(self) -> float:
        """Of pre-training and the stages that plan.*_gpu_hours add (V3 table 1)."""
        settings = self.config.settings
        return self.gpu_hours + settings.context_extension_gpu_hours + settings.post_training_gpu_hours

    @property
    def days(self) -> float:
        """Of pre-training on the whole cluster."""
        return self.gpu_hours / self.config.cluster.gpus / 24

    @property
    def dollars(self) -> float:
        """Price of gpu_hours_total."""
        return self.gpu_hours_total * self.config.cluster.dollars_per_gpu_hour

    def layout(self) -> dict[str, Any]:
        """The parallel layout, derived sizes included."""
        cfg, parallel = self.config, self.config.parallel
        return {
            "tensor": parallel.tensor,
            "pipeline": parallel.pipeline,
            "virtual_pipeline": parallel.virtual_pipeline,
            "expert": parallel.expert,
            "context": parallel.context,
            "zero1": parallel.zero1,
            "data": data_size(parallel, cfg.cluster.gpus),
            "expert_data": expert_data_size(parallel, cfg.cluster.gpus),
            "stages": parallel.pipeline_layout or even_layout(cfg.model, parallel),
            "schedule": cfg.settings.schedule.name,
            "micro_batch": cfg.settings.micro_batch,
            "micro_batches": micro_batches(cfg),
            "recompute": list(parallel.recompute),
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        cluster = self.config.cluster
        return {
            "params_total": self.params_total,
            "params_active": self.params_active,
            "params_mtp": self.params_mtp,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "gpu": cluster.gpu.name,
            "gpus": cluster.gpus,
            "layout": self.layout(),
            "memory_gib_per_gpu": self.memory.total,
            "memory_gib_by_part": self.memory.parts(),
            "memory_gib_available": cluster.spec.memory_gib,
            "fits": self.fits,
            "traffic_bytes": dataclasses.asdict(self.traffic),
            "step_s": self.step.seconds,
            "step_s_by_part": self.step.share,
            "bubble": self.step.bubble,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
            "tflops_per_gpu": self.tflops_per_gpu,
            "mfu": self.mfu,
            "gpu_hours": self.gpu_hours,
            "gpu_hours_total": self.gpu_hours_total,
            "days": self.days,
            "dollars": self.dollars,
            "env": dict(cluster.env),
        }


def check(cfg: PlanConfig) -> None:
    """Raise ConfigError where the layout is illegal for the model, the cluster or the batch; it may still not fit."""
    check_model(cfg.model, cfg.parallel)
    check_world(cfg.parallel, cfg.cluster.gpus, "cluster.gpus")
    settings, domain = cfg.settings, cfg.cluster.spec.nvlink_domain
    check_batch(cfg.parallel, cfg.cluster.gpus, settings.global_batch, settings.micro_batch, "plan.global_batch")
    if cfg.parallel.tensor > domain:
        problem = f"reaches beyond the {domain} GPUs that NVLink connects"
        raise ConfigError("parallel.tensor", cfg.parallel.tensor, problem, f"set at most {domain}")
    if settings.seq_len % (cfg.parallel.tensor * cfg.parallel.context):
        ranks = cfg.parallel.tensor * cfg.parallel.context
        problem = f"parallel.tensor*context={ranks} does not divide it"
        raise ConfigError("plan.seq_len", settings.seq_len, problem, f"set a multiple of {ranks}")
    if settings.schedule is Schedule.dualpipe and micro_batches(cfg) < 2 * cfg.parallel.pipeline:
        problem = f"makes {micro_batches(cfg)} micro-batches, and DualPipe takes at least twice parallel.pipeline"
        remedy = "set a larger one, or plan.schedule=megatron"
        raise ConfigError("plan.global_batch", settings.global_batch, problem, remedy)
    if settings.overlap_dispatch and settings.schedule is Schedule.megatron and cfg.parallel.virtual_pipeline == 1:
        if cfg.parallel.pipeline > 1:
            problem = "Megatron overlaps in an interleaved pipeline only"
            raise ConfigError("plan.overlap_dispatch", "true", problem, "set parallel.virtual_pipeline=2 or more")
    whole = [name for name in ("full", "moe") if name in cfg.parallel.recompute]
    if settings.overlap_dispatch and whole:
        problem = "what is overlapped cannot be recomputed"
        raise ConfigError("parallel.recompute", whole[0], problem, "leave it out, or set plan.overlap_dispatch=false")
    if settings.dispatcher is Dispatcher.alltoall and settings.fp8_dispatch:
        raise ConfigError(
            "plan.fp8_dispatch", "true", "the alltoall dispatcher sends BF16", "set plan.dispatcher=deepep"
        )


def plan(cfg: PlanConfig, efficiency: Efficiency = EFFICIENCY) -> Plan:
    """The plan of a configuration; instant, and pure. Raises ConfigError for a layout that is illegal."""
    check(cfg)
    model, mtp = cfg.model, cfg.model.num_nextn_predict_layers
    return Plan(
        config=cfg,
        params_total=model.num_params(),
        params_active=model.active_params(),
        params_mtp=model.num_params(mtp=True) - model.num_params(),
        kv_bytes_per_token=2 * model.kv_elements_per_token(),
        memory=memory(cfg),
        traffic=_traffic(cfg),
        step=time_step(cfg, efficiency),
        flops_per_token=model.flops_per_token(cfg.settings.seq_len, mtp=mtp > 0),
    )


def _traffic(cfg: PlanConfig) -> Traffic:
    """Of the pipeline rank that sends most to its data-parallel peers; per token, a GPU's share of the network."""
    model, depth = cfg.model, cfg.model.num_nextn_predict_layers
    network, nvlink = dispatch_bytes(cfg)
    every = stages(model, cfg.parallel)
    sent = []
    for rank in range(cfg.parallel.pipeline):
        each = data_parallel_bytes(cfg, rank_params(model, cfg.parallel, rank_stages(cfg, every, rank)))
        sent.append(each.dense + each.expert)
    return Traffic(
        all_to_all_network=network * (model.num_moe_layers + depth),
        all_to_all_nvlink=nvlink * (model.num_moe_layers + depth),
        tensor_nvlink=tensor_bytes(cfg) * (model.num_hidden_layers + depth),
        data_parallel=max(sent),
        pipeline_hop=hop_bytes(cfg) if cfg.parallel.pipeline > 1 else 0.0,
    )
