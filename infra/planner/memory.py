"""Memory of the fullest GPU, by part (V3 sections 3.2.1 to 3.2.3)."""

import dataclasses
from dataclasses import dataclass

from infra.planner.config import Grads, PlanConfig, Precision, Schedule
from infra.planner.params import Params, rank_params
from infra.planner.tensors import Kept, kept_bytes, layer_tensors, mtp_tensors
from training.layout import Stage, data_size, expert_data_size, stages

GIB = 2**30
RUNTIME_GIB = 3.0
"CUDA context, NCCL and dispatcher buffers, fragmentation: an allowance, not derived from anything."


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """GiB on one GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    kv_cache: float
    buffers: float

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """By name."""
        return dataclasses.asdict(self)


def memory(cfg: PlanConfig) -> Memory:
    """Of the GPU that needs most."""
    return max(each_rank(cfg), key=lambda rank: rank.total)


def each_rank(cfg: PlanConfig) -> list[Memory]:
    """Of the GPUs of each pipeline rank."""
    every, layers = stages(cfg.model, cfg.parallel), layer_bytes(cfg)
    return [_rank(cfg, layers, rank_stages(cfg, every, rank), rank) for rank in range(cfg.parallel.pipeline)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """Bytes a token in one layer."""

    dense: float
    "Kept of a dense layer until the backward pass."
    moe: float
    mtp: float
    "Kept of an MTP module, its MoE layer included."
    largest: float
    "Of the larger kind of layer while its backward pass runs, whatever is recomputed."


def layer_bytes(cfg: PlanConfig) -> LayerBytes:
    """What the layers keep under the settings' precision and recomputation."""
    settings, fp8 = cfg.settings, cfg.settings.precision is Precision.fp8

    def kept(tensors: list[Kept]) -> float:
        return kept_bytes(tensors, cfg.parallel.recompute, fp8=fp8, fp8_swiglu_input=settings.fp8_swiglu_input)

    dense, moe = layer_tensors(cfg.model, moe=False), layer_tensors(cfg.model, moe=True)
    return LayerBytes(
        dense=kept(dense),
        moe=kept(moe),
        mtp=kept(moe + mtp_tensors(cfg.model)),
        largest=max(kept_bytes(dense, ()), kept_bytes(moe, ())),
    )


def rank_stages(cfg: PlanConfig, every: list[Stage], rank: int) -> list[Stage]:
    """The stages of one pipeline rank. DualPipe gives it a stage from each end (V3 section 3.2.1)."""
    if cfg.settings.schedule is Schedule.dualpipe:
        return [every[rank], every[-1 - rank]]
    return every[rank :: cfg.parallel.pipeline]


def _rank(cfg: PlanConfig, layers: LayerBytes, own: list[Stage], rank: int) -> Memory:
    params = rank_params(cfg.model, cfg.parallel, own)
    grad = 4.0 if cfg.settings.grads is Grads.fp32 else 2.0
    return Memory(
        weights=2.0 * params.total / GIB,  # BF16, or FP8 once by rows and once by columns
        gradients=grad * params.total / GIB,
        optimizer=_optimizer_bytes(cfg, params) / GIB,
        activations=_activation_bytes(cfg, layers, own, rank) / GIB,
        kv_cache=_kv_bytes(cfg, own) / GIB,
        buffers=RUNTIME_GIB + _buffer_bytes(cfg, layers, own) / GIB,
    )


def _optimizer_bytes(cfg: PlanConfig, params: Params) -> float:
    """FP32 weights and two moments, cut over the data-parallel ranks by ZeRO-1. DualPipe holds each stage twice."""
    each = 4.0 + (4.0 if cfg.settings.bf16_moments else 8.0)
    if not cfg.parallel.zero1:
        return each * params.total
    copies = 2 if cfg.settings.schedule is Schedule.dualpipe else 1
    dense = copies * data_size(cfg.parallel, cfg.cluster.gpus)
    expert = copies * expert_data_size(cfg.parallel, cfg.cluster.gpus)
    return each * (params.dense / dense + params.expert / expert)


def micro_batch_tokens(cfg: PlanConfig) -> float:
    """Tokens of a micro-batch on one GPU; tensor ranks share them out, too (sequence parallelism)."""
    rows = cfg.settings.micro_batch * cfg.settings.seq_len
    return rows / (cfg.parallel.tensor * cfg.parallel.context)


def _activation_bytes(cfg: PlanConfig, layers: LayerBytes, own: list[Stage], rank: int) -> float:
    """Of all micro-batches that are under way at once."""
    total = 0.0
    for count, stage in zip(under_way(cfg, rank), own, strict=True):
        decoder = layers.dense * stage.dense(cfg.model) + layers.moe * stage.moe(cfg.model)
        total += count * (decoder + layers.mtp * stage.mtp)
    return micro_batch_tokens(cfg) * total


def under_way(cfg: PlanConfig, rank: int) -> list[float]:
    """Micro-batches whose activations a pipeline rank holds at once, for each of its stages.

    Megatron's get_pp_rank_microbatches: 1F1B holds p - rank; interleaved 2 (p - rank - 1) + (v - 1) p + 1 over its v
    stages, one more where dispatch is overlapped. DualPipe holds p + 1 over its two (DualPipe's README).
    """
    p, v = cfg.parallel.pipeline, cfg.parallel.virtual_pipeline
    number = micro_batches(cfg)
    if cfg.settings.schedule is Schedule.dualpipe:
        return [float(p - rank), float(rank + 1)]
    more = 1 if cfg.settings.overlap_dispatch and v > 1 else 0
    total = p - rank if v == 1 else 2 * (p - rank - 1) + (v - 1) * p + 1 + more
    return [min(total, number * v) / v] * v


def micro_batches(cfg: PlanConfig) -> int:
    """Micro-batches of one data-parallel rank in a step."""
    rows = data_size(cfg.parallel, cfg.cluster.gpus) * cfg.settings.micro_batch
    return cfg.settings.global_batch // rows


def _kv_bytes(cfg: PlanConfig, own: list[Stage]) -> float:
    """The latents of this rank's layers in BF16, whole on every tensor rank (V3 section 2.1.1)."""
    layers = sum(len(stage.layers) for stage in own)
    return 2.0 * cfg.settings.kv_tokens * cfg.model.kv_elements_per_token() * layers / cfg.model.num_hidden_layers


def _buffer_bytes(cfg: PlanConfig, layers: LayerBytes, own: list[Stage]) -> float:
    """What lives for moments: the logits and their gradient, or a layer's tensors, made anew, and their gradients."""
    tokens = micro_batch_tokens(cfg)
    logits = 2.0 * cfg.model.vocab_size if any(stage.loss for stage in own) else 0.0
    return 2 * tokens * max(logits, layers.largest)
