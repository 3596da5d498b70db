"""Shapes that cannot work are refused before anything is built, by the name of the field."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from modeling.kinds import DType, Experts, Family, Fp8, Head, Modules, ScoringFunc
from modeling.vision_config import Vision

if TYPE_CHECKING:
    from modeling.config import ModelConfig

Reject = Callable[[str, str, str], None]
"(field, problem, remedy)"


def only_dense(cfg: "ModelConfig") -> None:
    """Give a dense family its defaults, and what it has not the values under which every count above is right."""
    cfg.num_key_value_heads = cfg.num_key_value_heads or cfg.num_attention_heads
    cfg.head_dim = cfg.head_dim or cfg.hidden_size // max(1, cfg.num_attention_heads)
    cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim = 0, cfg.head_dim, cfg.head_dim
    cfg.q_lora_rank, cfg.kv_lora_rank, cfg.first_k_dense_replace = None, 0, cfg.num_hidden_layers
    cfg.n_routed_experts = cfg.n_shared_experts = cfg.num_experts_per_tok = cfg.moe_intermediate_size = 0
    cfg.n_group, cfg.topk_group, cfg.routed_scaling_factor, cfg.aux_loss_alpha = 1, 1, 1.0, 0.0
    cfg.scoring_func, cfg.num_nextn_predict_layers = ScoringFunc.softmax, 0


def check(cfg: "ModelConfig") -> None:
    """Raise ConfigError at the first field that cannot work."""

    def reject(key: str, problem: str, remedy: str) -> None:
        value = getattr(cfg, key)
        raise ConfigError(f"model.{key}", getattr(value, "name", value), problem, remedy)

    positive = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads v_head_dim intermediate_size "
        "max_position_embeddings rope_theta rms_norm_eps initializer_range rope_factor"
    ).split()
    if not cfg.is_dense:
        positive += (
            "kv_lora_rank qk_nope_head_dim n_routed_experts num_experts_per_tok moe_intermediate_size n_group "
            "topk_group routed_scaling_factor"
        ).split()
    for key in positive:
        if getattr(cfg, key) <= 0:
            reject(key, "has to be positive", f"set model.{key} above 0")
    if cfg.head is Head.score and cfg.num_nextn_predict_layers:
        reject(
            "num_nextn_predict_layers", "model.head=score predicts no tokens", "set model.num_nextn_predict_layers=0"
        )
    if cfg.head is Head.score and cfg.vision is not Vision.none:
        reject("vision", "model.head=score judges text", "set model.vision=none")
    if cfg.is_dense:
        _check_dense(cfg, reject)
        _check_fp8(cfg, reject)
        return
    for key in ("num_key_value_heads", "head_dim", "tie_word_embeddings"):
        if getattr(cfg, key):
            reject(key, "is for dense families", "leave it out, or set model.family")
    for key in ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers", "aux_loss_alpha"):
        if getattr(cfg, key) < 0:
            reject(key, "cannot be negative", f"set model.{key}=0 or more")
    if cfg.q_lora_rank is not None and cfg.q_lora_rank <= 0:
        reject("q_lora_rank", "has to be positive", "set model.q_lora_rank=null for a query without compression")
    if cfg.qk_rope_head_dim <= 0 or cfg.qk_rope_head_dim % 2:
        reject("qk_rope_head_dim", "rotation works on pairs", "set an even number above 0")
    if cfg.first_k_dense_replace >= cfg.num_hidden_layers:
        reject(
            "first_k_dense_replace",
            f"leaves no expert layer of {cfg.num_hidden_layers}",
            f"set model.first_k_dense_replace below {cfg.num_hidden_layers}",
        )
    if cfg.num_experts_per_tok > cfg.n_routed_experts:
        reject(
            "num_experts_per_tok",
            f"there are {cfg.n_routed_experts} experts",
            f"set model.num_experts_per_tok to {cfg.n_routed_experts} or less",
        )
    if cfg.num_experts_per_tok < 2 and cfg.scoring_func is ScoringFunc.sigmoid:
        # A single gate, normalised over itself, is the constant 1: the router would get no gradient.
        reject("num_experts_per_tok", "sigmoid gates are normalised over at least two", "set 2 or more")
    _check_fp8(cfg, reject)
    if cfg.n_group > 1:
        _check_groups(cfg, reject)
    elif cfg.topk_group != 1:
        reject("topk_group", "there is one group", "set model.topk_group=1, or model.n_group above 1")


def _check_dense(cfg: "ModelConfig", reject: Reject) -> None:
    """Grouped-query attention."""
    if cfg.num_key_value_heads < 0 or cfg.num_attention_heads % cfg.num_key_value_heads:
        remedy = f"set a divisor of model.num_attention_heads={cfg.num_attention_heads}"
        reject("num_key_value_heads", "does not divide the query heads", remedy)
    if cfg.head_dim <= 0 or cfg.head_dim % 2:
        reject("head_dim", "rotation works on pairs", "set an even number above 0")
    if cfg.rope_factor != 1 and cfg.family is not Family.llama:
        reject("rope_factor", f"{cfg.family.name} has the plain rotary embedding", "set model.rope_factor=1")
    if cfg.rope_factor != 1 and cfg.rope_original_max_position_embeddings != 8192:
        reject("rope_original_max_position_embeddings", "Megatron scales Llama 3 from 8192", "set 8192")


def _check_fp8(cfg: "ModelConfig", reject: Reject) -> None:
    """What can be known without looking at the machine; modeling/fp8.py looks at that."""
    name = cfg.fp8.name
    if cfg.fp8 is Fp8.te and cfg.modules is Modules.local:
        reject("modules", f"model.fp8={name} is carried by Transformer Engine's modules", "set model.modules=auto")
    if cfg.fp8 in (Fp8.torch, Fp8.emulated) and cfg.modules is Modules.te:
        reject("modules", f"model.fp8={name} is carried by Megatron's local modules", "set model.modules=auto")
    if cfg.fp8 in (Fp8.torch, Fp8.emulated) and cfg.experts is Experts.grouped:
        reject("experts", f"model.fp8={name} has experts of its own", "set model.experts=auto")
    if cfg.fp8 in (Fp8.te, Fp8.torch) and cfg.dtype is DType.fp32:
        reject("dtype", f"model.fp8={name} is for a network in BF16", "set model.dtype=bf16, or model.fp8=emulated")


def _check_groups(cfg: "ModelConfig", reject: Reject) -> None:
    """Group-limited routing (V3 section 2.1.2)."""
    if cfg.scoring_func is not ScoringFunc.sigmoid:
        reject("n_group", "grouping is defined for sigmoid scores", "set model.n_group=1")
    if cfg.n_routed_experts % cfg.n_group or cfg.n_routed_experts // cfg.n_group < 2:
        reject("n_group", f"has to cut {cfg.n_routed_experts} experts into equal groups of 2 or more", "set a divisor")
    if cfg.topk_group > cfg.n_group:
        reject("topk_group", f"there are {cfg.n_group} groups", f"set model.topk_group to {cfg.n_group} or less")
    if cfg.num_experts_per_tok != 2 * cfg.topk_group:
        # Megatron scores a group by its top (k / topk_group) experts, DeepSeek-V3 by its top 2: they agree here only.
        reject(
            "topk_group",
            f"a group is scored by its top 2, so num_experts_per_tok={cfg.num_experts_per_tok} has to be twice this",
            f"set model.num_experts_per_tok={2 * cfg.topk_group}",
        )
