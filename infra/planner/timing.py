"""Seconds of a step: what each kind of work takes on one GPU, then the pipeline, the all-to-all and the optimiser.

Every rate is a figure of hardware.py times a share of efficiency.py. A step is as slow as its slowest pipeline rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from infra.planner.config import Grads, Graphs, PlanConfig, Precision, Schedule
from infra.planner.efficiency import EFFICIENCY, Efficiency
from infra.planner.memory import micro_batch_tokens, micro_batches, rank_stages
from infra.planner.params import (
    Params,
    attention_params,
    dense_mlp_params,
    expert_params,
    rank_params,
    router_params,
    stage_params,
    up_proj_params,
)
from infra.planner.tensors import kept_bytes, layer_tensors
from infra.planner.traffic import context_bytes, data_parallel_bytes, dispatch_bytes, hop_bytes, tensor_bytes
from training.layout import Stage, data_size, expert_data_size, stages

_FORWARD_TOUCHES, _TOUCHES = 2, 5
"Element-wise kernels write a kept tensor and read it; backward they read it and its gradient, and write another."


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Seconds of one micro-batch, forward and backward, on one GPU."""

    matmul: float = 0.0
    "Projections, experts and head."
    attention: float = 0.0
    "The attention core."
    elementwise: float = 0.0
    "Norms, rotations, SwiGLU, permutation, casts to FP8: bound by memory."
    weights: float = 0.0
    "Reading weights and adding to gradients: bound by memory."
    recompute: float = 0.0
    "Forward work done again."
    launches: float = 0.0
    "Waiting for the host."
    tensor: float = 0.0
    "Tensor-parallel collectives, and what the ring of context parallelism adds to attention."
    hops: float = 0.0
    "Waiting for a neighbour in the pipeline, where that is not hidden."
    dispatch: float = 0.0
    "Sending tokens to experts and back, not overlapped."

    def __add__(self, other: "Work") -> "Work":
        return Work(**{name: getattr(self, name) + getattr(other, name) for name in Work.__slots__})

    def __mul__(self, factor: float) -> "Work":
        return Work(**{name: getattr(self, name) * factor for name in Work.__slots__})

    @property
    def computing(self) -> float:
        """What multiprocessors do."""
        return self.matmul + self.attention + self.elementwise + self.weights + self.recompute

    @property
    def total(self) -> float:
        """All of it, one after the other."""
        return self.computing + self.launches + self.tensor + self.hops + self.dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimiser step."""

    seconds: float
    "From one step to the next."
    share: dict[str, float]
    "Seconds by what they go to; they add up to `seconds`."
    bubble: float
    "Share of the step in which a pipeline rank waits for the pipeline to fill or drain."
    exposed_dispatch: float
    "Share of all-to-all time that is not hidden."


def time_step(cfg: PlanConfig, efficiency: Efficiency = EFFICIENCY) -> Step:
    """The step of the slowest pipeline rank."""
    every = stages(cfg.model, cfg.parallel)
    p, v, number = cfg.parallel.pipeline, cfg.parallel.virtual_pipeline, micro_batches(cfg)
    dualpipe = cfg.settings.schedule is Schedule.dualpipe
    layers = layer_work(cfg, False, efficiency), layer_work(cfg, True, efficiency)
    works = [stage_work(cfg, stage, layers, efficiency) for stage in every]
    ranks = []
    for rank in range(p):
        # A DualPipe rank sees half of the micro-batches in each of its two stages.
        own = [works[rank], works[-1 - rank]] if dualpipe else works[rank::p]
        ranks.append(_sum(own) * (0.5 if dualpipe else 1.0))
    slowest = max(ranks, key=lambda work: _overlapped(cfg, work, efficiency)[0])
    each, dispatch, contention = _overlapped(cfg, slowest, efficiency)
    if dualpipe:
        # (p/2 - 1)(F&B + B - 3W) of DualPipe's README, with F, input and weight gradients of a third each.
        bubble = (p / 2 - 1) * each * (1 + 2 / 3 - 1)
    else:
        bubble = (p - 1) / v * each
    tail, reduce = _optimizer_s(cfg, every, efficiency), _data_parallel_s(cfg, every, each, efficiency)
    share = {name: number * getattr(slowest, name) for name in Work.__slots__ if name != "dispatch"}
    share |= {"dispatch": number * dispatch, "contention": number * contention}
    share |= {"bubble": bubble, "data parallel": reduce, "optimizer": tail}
    seconds = sum(share.values())
    return Step(
        seconds=seconds,
        share=share,
        bubble=bubble / seconds,
        exposed_dispatch=dispatch / slowest.dispatch if slowest.dispatch else 0.0,
    )


def _overlapped(cfg: PlanConfig, work: Work, efficiency: Efficiency) -> tuple[float, float, float]:
    """(seconds of the micro-batch, of them exposed all-to-all, of them slowed-down computation).

    Overlapped, the sending multiprocessors are missing to the computation as long as they send, and a part of the
    sending stays exposed.
    """
    if not cfg.settings.overlap_dispatch or not work.dispatch:
        return work.total, work.dispatch, 0.0
    contention = work.dispatch * cfg.settings.dispatch_sms / cfg.cluster.spec.sms
    dispatch = (1 - efficiency.hidden) * work.dispatch
    return work.total - work.dispatch + dispatch + contention, dispatch, contention


def stage_work(cfg: PlanConfig, stage: Stage, layers: tuple[Work, Work], efficiency: Efficiency) -> Work:
    """One micro-batch in one pipeline stage; layers: in a dense and in a MoE layer."""
    model = cfg.model
    dense, moe = layers
    total = dense * stage.dense(model) + moe * (stage.moe(model) + stage.mtp)
    h, tokens = model.hidden_size, micro_batch_tokens(cfg)
    rate = _matmul_rate(cfg, efficiency, fp8=cfg.settings.precision is Precision.fp8)
    head_rate = _matmul_rate(cfg, efficiency, fp8=cfg.settings.fp8_head)
    heads = (1 + model.num_nextn_predict_layers) if stage.loss else 0
    head_s = 6.0 * tokens * heads * model.vocab_size * h / head_rate
    states_s = 6.0 * tokens * stage.mtp * 2 * h * h / rate
    logits_s = _TOUCHES * 2.0 * tokens * heads * model.vocab_size / _memory_rate(cfg, efficiency)
    extra = Work(
        matmul=head_s + states_s,
        elementwise=logits_s,
        weights=_weights_s(cfg, stage_params(model, cfg.parallel, stage), efficiency),
        hops=_hop_s(cfg, stage, efficiency),
    )
    return total + extra


def layer_work(cfg: PlanConfig, moe: bool, efficiency: Efficiency) -> Work:
    """One micro-batch in one decoder layer."""
    model, settings, gpu = cfg.model, cfg.settings, cfg.cluster.spec
    tokens, fp8 = micro_batch_tokens(cfg), settings.precision is Precision.fp8
    rate, memory = _matmul_rate(cfg, efficiency, fp8=fp8), _memory_rate(cfg, efficiency)
    tensors = layer_tensors(model, moe)
    products = active_params(cfg, moe)
    heads = model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim
    # Causal, forward; backward flash attention makes the scores anew and does 2.5 times the work (FlashAttention-2).
    core = tokens * settings.seq_len * model.num_attention_heads * heads
    core_rate = efficiency.attention * 1e12 * (gpu.matmul_fp8_tflops if settings.fp8_attention else gpu.matmul_tflops)
    attention = 3.5 * core / core_rate
    dispatch = _dispatch_s(cfg, efficiency) if moe else 0.0
    again_products, again_dispatch, again_core = _again(cfg, moe)
    freed = kept_bytes(tensors, ()) - kept_bytes(tensors, cfg.parallel.recompute)
    recompute = 2.0 * tokens * again_products / rate + _FORWARD_TOUCHES * tokens * freed / memory
    ring = context_bytes(cfg) * tokens / (gpu.nic_gb_s * 1e9 * efficiency.nic) if cfg.parallel.context > 1 else 0.0
    gathered = tensor_bytes(cfg) * tokens * cfg.parallel.tensor / (gpu.nvlink_gb_s * 1e9 * efficiency.nvlink)
    return Work(
        matmul=6.0 * tokens * products / rate,
        attention=attention,
        elementwise=tokens * (_TOUCHES * kept_bytes(tensors, ()) + (_cast_bytes(cfg, moe) if fp8 else 0.0)) / memory,
        recompute=recompute + again_core * core / core_rate,
        launches=_launch_s(cfg, moe, efficiency),
        tensor=gathered + max(0.0, ring - attention),
        dispatch=dispatch * (1 + again_dispatch),
    )


def active_params(cfg: PlanConfig, moe: bool) -> int:
    """Parameters of one layer that a token is multiplied with."""
    model = cfg.model
    attention = sum(attention_params(model))
    if not moe:
        return attention + dense_mlp_params(model)
    experts = model.num_experts_per_tok + model.n_shared_experts
    return attention + experts * expert_params(model) + router_params(model)


def _again(cfg: PlanConfig, moe: bool) -> tuple[int, float, float]:
    """What recomputing repeats of a layer's forward pass: (parameters, share of all-to-all, attention cores)."""
    model, recompute = cfg.model, cfg.parallel.recompute
    if "full" in recompute:
        return active_params(cfg, moe), 0.5 if moe else 0.0, 1.0
    params = up_proj_params(model) if "mla_up_proj" in recompute else 0
    core = 1.0 if "core_attn" in recompute else 0.0
    if not moe:
        return params + (dense_mlp_params(model) if "mlp" in recompute else 0), 0.0, core
    if "moe" in recompute:
        experts = (model.num_experts_per_tok + model.n_shared_experts) * expert_params(model)
        return params + experts + router_params(model), 0.5, core
    if "shared_experts" in recompute:
        params += model.n_shared_experts * expert_params(model)
    return params, 0.0, core


def _cast_bytes(cfg: PlanConfig, moe: bool) -> float:
    """Bytes a token to quantise a layer's inputs and output gradients: BF16 read, FP8 written by rows and by columns.

    V3 section 3.3.2: 1x128 tiles forward, 128x1 for the weight gradient.
    """
    model = cfg.model
    h, n, k = model.hidden_size, model.num_attention_heads, model.num_experts_per_tok
    qk, q_rank, kv = model.qk_nope_head_dim + model.qk_rope_head_dim, model.q_lora_rank, model.kv_lora_rank
    outputs = n * qk + kv + model.qk_rope_head_dim + n * (model.qk_nope_head_dim + model.v_head_dim) + h
    inputs = h + kv + n * model.v_head_dim
    if q_rank is not None:
        inputs, outputs = inputs + q_rank, outputs + q_rank
    width = k + model.n_shared_experts if moe else 1
    inner = model.moe_intermediate_size if moe else model.intermediate_size
    inputs, outputs = inputs + width * (h + inner), outputs + width * (2 * inner + h)
    return 4.0 * (inputs + outputs)


def _matmul_rate(cfg: PlanConfig, efficiency: Efficiency, *, fp8: bool) -> float:
    """FLOPs a second of matrix products."""
    gpu = cfg.cluster.spec
    return efficiency.matmul * 1e12 * (gpu.matmul_fp8_tflops if fp8 else gpu.matmul_tflops)


def _memory_rate(cfg: PlanConfig, efficiency: Efficiency) -> float:
    """Bytes a second of kernels that memory bounds."""
    return efficiency.memory * 1e9 * cfg.cluster.spec.hbm_gb_s


def _weights_s(cfg: PlanConfig, params: Params, efficiency: Efficiency) -> float:
    """Weights are read twice, forward and for the input's gradient; gradients are read and written."""
    weight = 1.0 if cfg.settings.precision is Precision.fp8 else 2.0
    grad = 4.0 if cfg.settings.grads is Grads.fp32 else 2.0
    return 2 * (weight + grad) * params.total / _memory_rate(cfg, efficiency)


def _dispatch_s(cfg: PlanConfig, efficiency: Efficiency) -> float:
    """The all-to-all of one MoE layer: network and NVLink work at the same time, the slower counts."""
    network, nvlink = dispatch_bytes(cfg)
    gpu, tokens = cfg.cluster.spec, micro_batch_tokens(cfg)
    network_s = network * tokens / (gpu.nic_gb_s * 1e9 * efficiency.nic)
    return max(network_s, nvlink * tokens / (gpu.nvlink_gb_s * 1e9 * efficiency.nvlink))


def _launch_s(cfg: PlanConfig, moe: bool, efficiency: Efficiency) -> float:
    """What the host holds a layer up: its launches, and those for each expert on this GPU."""
    share = {Graphs.none: 1.0, Graphs.partial: efficiency.partial_graphs, Graphs.full: 0.0}[cfg.settings.graphs]
    experts = cfg.model.n_routed_experts / cfg.parallel.expert if moe else 0
    return share * 1e-6 * (efficiency.launch_us + efficiency.launch_expert_us * experts)


def _hop_s(cfg: PlanConfig, stage: Stage, efficiency: Efficiency) -> float:
    """Activations in and gradients out, where the schedule does not overlap them: plain 1F1B."""
    hidden = cfg.parallel.virtual_pipeline > 1 or cfg.settings.schedule is Schedule.dualpipe
    if hidden or cfg.parallel.pipeline == 1:
        return 0.0
    return 2 * hop_bytes(cfg) / (cfg.cluster.spec.nic_gb_s * 1e9 * efficiency.nic)


def _optimizer_s(cfg: PlanConfig, every: list[Stage], efficiency: Efficiency) -> float:
    """AdamW reads and writes its FP32 weights and moments and reads the gradient: bound by memory."""
    moments = 4.0 if cfg.settings.bf16_moments else 8.0
    each = 2 * (4.0 + moments) + 4.0 + 2.0
    dense, expert = 1, 1
    if cfg.parallel.zero1:
        dense = data_size(cfg.parallel, cfg.cluster.gpus)
        expert = expert_data_size(cfg.parallel, cfg.cluster.gpus)
    most = max(p.dense / dense + p.expert / expert for p in _each_rank(cfg, every))
    return each * most / _memory_rate(cfg, efficiency)


def _data_parallel_s(cfg: PlanConfig, every: list[Stage], micro_batch_s: float, efficiency: Efficiency) -> float:
    """Gradients and weights through the network; overlapped, a micro-batch's time of it is hidden.

    Ranks of a group that share an NVLink domain share their network cards, too.
    """
    gpu = cfg.cluster.spec

    def rate(stride: int) -> float:
        together = max(1, gpu.nvlink_domain // stride)
        return min(together * gpu.nic_gb_s * efficiency.nic, gpu.nvlink_gb_s * efficiency.nvlink) * 1e9

    dense_rate = rate(cfg.parallel.tensor * cfg.parallel.context)
    expert_rate = rate(cfg.parallel.expert)
    slowest = 0.0
    for params in _each_rank(cfg, every):
        sent = data_parallel_bytes(cfg, params)
        slowest = max(slowest, sent.dense / dense_rate + sent.expert / expert_rate)
    return max(0.0, slowest - micro_batch_s) if cfg.settings.overlap_grad_reduce else slowest


def _each_rank(cfg: PlanConfig, every: list[Stage]) -> list[Params]:
    """Of each pipeline rank."""
    return [
        rank_params(cfg.model, cfg.parallel, rank_stages(cfg, every, rank)) for rank in range(cfg.parallel.pipeline)
    ]


def _sum(works: Iterable[Work]) -> Work:
    return sum(works, Work())
