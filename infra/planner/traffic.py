"""Bytes that one GPU sends, per token or per step. Times are timing.py's."""

import math
from dataclasses import dataclass

from infra.planner.config import Dispatcher, Grads, PlanConfig, Precision
from infra.planner.params import Params
from modeling.config import ModelConfig
from training.layout import data_size, expert_data_size


@dataclass(frozen=True, slots=True)
class Copies:
    """How often a token leaves its GPU for its experts, on average under an even load."""

    network: float
    "Over the network between NVLink domains."
    nvlink: float
    "Over NVLink inside a domain, tokens passed on from the network included."


def expert_copies(model: ModelConfig, expert: int, domain: int, dispatcher: Dispatcher) -> Copies:
    """Copies of a token for `expert` ranks in NVLink domains of `domain` GPUs.

    deepep and hybridep send one copy to each domain that holds one of the token's experts, which V3's node-limited
    routing (section 2.1.2) keeps at topk_group, and pass it on inside; alltoall sends one for each expert.
    Example: 671b, 64 ranks in domains of 8: 3.6 of 8 domains are met, 3.15 of them are not the token's own.
    """
    k, domains = model.num_experts_per_tok, max(1, -(-expert // domain))
    inside = (expert // domains - 1) / expert  # of all ranks, those beside this one in its domain
    if dispatcher is Dispatcher.alltoall:
        return Copies(network=k * (1 - 1 / domains), nvlink=k * inside)
    met = _met(model, domains)
    ranks = _met(model, expert)
    return Copies(network=met * (1 - 1 / domains), nvlink=ranks * (1 - 1 / (expert // domains)))


def _met(model: ModelConfig, parts: int) -> float:
    """Of the experts in `parts` equal parts: how many parts hold at least one of a token's experts, on average.

    A token draws topk_group of n_group groups and then its experts from theirs, all alike.
    """
    groups, chosen = model.n_group, model.topk_group
    if max(parts, groups) % min(parts, groups):
        groups = chosen = 1  # parts cut through groups: as without them
    group, part = model.n_routed_experts // groups, model.n_routed_experts // parts
    inside = max(1, part // group)  # groups of a part; j of them are among the token's
    missed = 0.0
    for j in range(min(inside, chosen) + 1):
        share = math.comb(inside, j) * math.comb(groups - inside, chosen - j) / math.comb(groups, chosen)
        ours, k = j * min(group, part), model.num_experts_per_tok
        missed += share * math.comb(chosen * group - ours, k) / math.comb(chosen * group, k)
    return parts * (1 - missed)


def dispatch_bytes(cfg: PlanConfig) -> tuple[float, float]:
    """(network, NVLink) bytes a token of one MoE layer: out and back, forward and backward.

    The backward pass sends the output's gradient out and the input's back, both in BF16.
    """
    model, gpu = cfg.model, cfg.cluster.spec
    if cfg.parallel.expert == 1:
        return 0.0, 0.0
    copies = expert_copies(model, cfg.parallel.expert, gpu.nvlink_domain, cfg.settings.dispatcher)
    out, back = cfg.settings.token_bytes
    each = model.hidden_size * (out + back + 2 * 2.0)
    return copies.network * each, copies.nvlink * each


def tensor_bytes(cfg: PlanConfig) -> float:
    """NVLink bytes a token of one decoder layer under tensor parallelism with sequence parallelism.

    Attention and the shared or dense MLP gather their input and scatter their output, forward and backward: 8 times.
    """
    tensor = cfg.parallel.tensor
    return 8 * 2.0 * cfg.model.hidden_size * (tensor - 1) / tensor


def context_bytes(cfg: PlanConfig) -> float:
    """Bytes a token of one layer that the ring of context parallelism passes on: keys, values and gradients."""
    model, context = cfg.model, cfg.parallel.context
    heads = model.num_attention_heads / cfg.parallel.tensor
    key_value = heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    return 3 * 2.0 * key_value * (context - 1)


def hop_bytes(cfg: PlanConfig) -> float:
    """Bytes of a micro-batch from one pipeline stage to the next, one way, per GPU."""
    rows = cfg.settings.micro_batch * cfg.settings.seq_len
    return 2.0 * rows * cfg.model.hidden_size / (cfg.parallel.tensor * cfg.parallel.context)


@dataclass(frozen=True, slots=True)
class DataParallel:
    """Bytes a step that one GPU sends to reduce gradients and gather weights."""

    dense: float
    expert: float


def data_parallel_bytes(cfg: PlanConfig, params: Params) -> DataParallel:
    """Reduce-scatter of gradients and all-gather of weights (ZeRO-1); without it both are of gradients."""
    grad = 4.0 if cfg.settings.grads is Grads.fp32 else 2.0
    weight = 1.0 if cfg.settings.precision is Precision.fp8 else 2.0
    each = grad + (weight if cfg.parallel.zero1 else grad)
    dense, expert = data_size(cfg.parallel, cfg.cluster.gpus), expert_data_size(cfg.parallel, cfg.cluster.gpus)
    return DataParallel(
        dense=each * params.dense * (dense - 1) / dense, expert=each * params.expert * (expert - 1) / expert
    )
