"""ModelConfig -> Megatron-core config, layer spec and model. The one file that knows Megatron's field names, and that
would change if the model moved from GPTModel to HybridModel.

Two sets of building blocks: Transformer Engine's on CUDA, Megatron's local ones elsewhere, with our own norm, core
attention and experts put into the spec. Process groups have to exist (training/parallel.py).
"""

import functools
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F

from infra.errors import ConfigError
from modeling import cpu, fp8
from modeling.config import DType, Experts, Fp8, ModelConfig, Modules

cpu.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import (  # noqa: E402
    get_gpt_decoder_block_spec,
    get_gpt_decoder_layer_specs,
    get_gpt_mtp_block_spec,
)
from megatron.core.tensor_parallel import ColumnParallelLinear  # noqa: E402
from megatron.core.transformer import MLATransformerConfig  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules  # noqa: E402
from megatron.core.utils import init_method_normal  # noqa: E402

from modeling.attention import CoreAttention, DirectQueryAttention, RMSNorm  # noqa: E402
from modeling.experts import BatchedExperts  # noqa: E402
from modeling.fp8_modules import Fp8Experts, use_fp8  # noqa: E402


def build_model(
    cfg: ModelConfig,
    *,
    pre_process: bool = True,
    post_process: bool = True,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    cp: int = 1,
    sequence_parallel: bool | None = None,
) -> GPTModel:
    """Build this rank's part of the network, unwrapped, with parameters in cfg.dtype.

    pre_process and post_process say whether this pipeline stage holds the embedding and the head. The sizes have to be
    those of the process groups. model(tokens [batch, seq], position_ids [batch, seq], attention_mask, labels=...) gives
    the loss per token [batch, seq] (FP32), or without labels the logits [batch, seq, vocab]. attention_mask is None
    (causal) or bool [batch, 1, seq, seq], True where hidden.
    """
    config = megatron_config(cfg, tp=tp, pp=pp, ep=ep, cp=cp, sequence_parallel=sequence_parallel)
    te = _use_te(cfg)
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=te, normalization="RMSNorm")
    last = get_gpt_decoder_layer_specs(config, use_transformer_engine=te, normalization="RMSNorm")[-1]
    mtp = None
    if config.mtp_num_layers:
        mtp = get_gpt_mtp_block_spec(config, last, use_transformer_engine=te)
    for layer in {id(spec): spec for spec in [*block.layer_specs, last]}.values():
        if cfg.q_lora_rank is None:
            layer.submodules.self_attention.module = DirectQueryAttention
        if not te:
            _use_own_modules(layer.submodules, cfg)
    for layer in mtp.layer_specs if mtp else []:
        layer.submodules.eh_proj = ColumnParallelLinear  # out of reach of Transformer Engine's FP8
    if not te:
        block.layer_norm = RMSNorm
        for layer in mtp.layer_specs if mtp else []:
            layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = RMSNorm
    model = GPTModel(
        config,
        block,
        vocab_size=cfg.vocab_size,
        max_sequence_length=cfg.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
        mtp_block_spec=mtp,
    )
    if product := fp8.PRODUCTS.get(fp8.carrier(cfg)):
        use_fp8(model, product)
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            # Experts always get an optimizer of their own, so that its state fits every TP and EP layout.
            parameter.allreduce = False
    return model


def megatron_config(
    cfg: ModelConfig,
    *,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    cp: int = 1,
    sequence_parallel: bool | None = None,
) -> MLATransformerConfig:
    """The Megatron config of cfg under these parallel sizes. sequence_parallel None: on with tensor parallelism.

    Raises ConfigError where the sizes do not divide the shape.
    """
    _check_sizes(cfg, tp=tp, pp=pp, ep=ep, cp=cp)
    te = _use_te(cfg)
    te_fp8 = fp8.carrier(cfg) is Fp8.te
    dtype = torch.bfloat16 if cfg.dtype is DType.bf16 else torch.float32
    init = init_method_normal(cfg.initializer_range)
    return MLATransformerConfig(
        num_layers=cfg.num_hidden_layers,
        hidden_size=cfg.hidden_size,
        ffn_hidden_size=cfg.intermediate_size,
        num_attention_heads=cfg.num_attention_heads,
        # Attention (V3 section 2.1.1)
        multi_latent_attention=True,
        qk_layernorm=True,
        q_lora_rank=cfg.q_lora_rank,
        kv_lora_rank=cfg.kv_lora_rank,
        qk_head_dim=cfg.qk_nope_head_dim,
        qk_pos_emb_head_dim=cfg.qk_rope_head_dim,
        v_head_dim=cfg.v_head_dim,
        rope_type="yarn",  # which is the plain rotary embedding at factor 1
        apply_rope_fusion=_fuse_rope(cfg),
        rotary_base=cfg.rope_theta,
        rotary_scaling_factor=cfg.rope_factor,
        original_max_position_embeddings=cfg.rope_original_max_position_embeddings,
        beta_fast=cfg.rope_beta_fast,
        beta_slow=cfg.rope_beta_slow,
        mscale=cfg.rope_mscale,
        mscale_all_dim=cfg.rope_mscale_all_dim,
        # Experts (V3 section 2.1.2)
        moe_layer_freq=[0] * cfg.first_k_dense_replace + [1] * cfg.num_moe_layers,
        num_moe_experts=cfg.n_routed_experts,
        moe_router_topk=cfg.num_experts_per_tok,
        moe_ffn_hidden_size=cfg.moe_intermediate_size,
        moe_shared_expert_intermediate_size=cfg.n_shared_experts * cfg.moe_intermediate_size or None,
        moe_router_num_groups=cfg.n_group if cfg.n_group > 1 else None,
        moe_router_group_topk=cfg.topk_group if cfg.n_group > 1 else None,
        moe_router_topk_scaling_factor=cfg.routed_scaling_factor,
        moe_router_score_function=cfg.scoring_func.value,
        moe_router_pre_softmax=True,
        moe_router_enable_expert_bias=cfg.has_expert_bias,
        moe_router_load_balancing_type="seq_aux_loss",
        moe_aux_loss_coeff=cfg.aux_loss_alpha,
        moe_router_dtype="fp32",
        moe_token_dispatcher_type="alltoall",
        moe_grouped_gemm=te,
        moe_permute_fusion=te,
        # Multi-token prediction (V3 section 2.2); its weight is set per step through mtp_grad_scale_func.
        mtp_num_layers=cfg.num_nextn_predict_layers or None,
        mtp_loss_scaling_factor=1.0,
        # The block
        normalization="RMSNorm",
        layernorm_epsilon=cfg.rms_norm_eps,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        bias_activation_fusion=te or cpu.is_installed(),
        bias_dropout_fusion=te,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        # Initialisation: every matrix alike (V3 section 4.2), drawn from Megatron's per-rank generators. The CPU
        # variant of the latter would give the same experts to every rank.
        init_method=init,
        output_layer_init_method=init,
        use_cpu_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=cfg.dtype is DType.bf16,
        # FP8 by Transformer Engine (V3 section 3.3), with the weights kept in BF16; other carriers are no affair of
        # Megatron's. Each expert's tokens are filled up to what its grouped product wants.
        fp8="e4m3" if te_fp8 else None,
        fp8_recipe="blockwise",
        fp8_param=False,
        moe_router_padding_for_quantization=te_fp8,
        # Losses are weighted sums; nothing divides by the number of micro-batches.
        calculate_per_token_loss=True,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        pipeline_model_parallel_layout=_layout(cfg, pp),
        context_parallel_size=cp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=1,
        sequence_parallel=tp > 1 if sequence_parallel is None else sequence_parallel,
    )


def _use_te(cfg: ModelConfig) -> bool:
    """Whether to build with Transformer Engine. Raises ConfigError for modules that this machine cannot run."""
    have = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None
    if cfg.modules is Modules.te and not have:
        raise ConfigError(
            "model.modules",
            "te",
            "needs CUDA and the package transformer-engine",
            "install the extra gpu (requirements/gpu.txt), or set model.modules=local",
        )
    te = have and cfg.modules is not Modules.local and fp8.carrier(cfg) in (Fp8.none, Fp8.te)
    if cfg.experts is Experts.grouped and not te:
        raise ConfigError("model.experts", "grouped", "needs Transformer Engine", "set model.experts=auto")
    if cfg.experts in (Experts.sequential, Experts.batched) and te:
        raise ConfigError(
            "model.experts",
            cfg.experts.name,
            "Transformer Engine has grouped experts only",
            "set model.experts=auto, or model.modules=local",
        )
    return te


def _fuse_rope(cfg: ModelConfig) -> bool:
    """On CPU the rotation is one node of autograd, ours; its tables are of the weights' type, so FP32 only."""
    return cpu.is_installed() and cfg.dtype is DType.fp32


def _use_own_modules(layer: Any, cfg: ModelConfig) -> None:
    """Put our norm, core attention and experts into the spec of one layer."""
    for name in ("input_layernorm", "pre_mlp_layernorm"):
        if getattr(layer, name) is not IdentityOp:
            setattr(layer, name, RMSNorm)
    if _is_moe(layer.mlp) and cfg.experts is not Experts.sequential:
        shared = layer.mlp.keywords["submodules"].shared_experts
        product = fp8.PRODUCTS.get(fp8.carrier(cfg))
        experts = functools.partial(Fp8Experts, product=product) if product else BatchedExperts
        layer.mlp = functools.partial(MoELayer, submodules=MoESubmodules(experts=experts, shared_experts=shared))
    attention = layer.self_attention.submodules
    attention.core_attention = CoreAttention
    attention.q_layernorm = RMSNorm if cfg.q_lora_rank is not None else IdentityOp
    attention.kv_layernorm = RMSNorm


def _is_moe(mlp: Any) -> bool:
    return isinstance(mlp, functools.partial) and mlp.func is MoELayer


def _check_sizes(cfg: ModelConfig, *, tp: int, pp: int, ep: int, cp: int) -> None:
    """Raise ConfigError where the parallel sizes do not fit the shape."""
    for name, size, key in (
        ("tensor", tp, "num_attention_heads"),
        ("tensor", tp, "vocab_size"),
        ("tensor", tp, "intermediate_size"),
        ("expert", ep, "n_routed_experts"),
    ):
        if getattr(cfg, key) % size:
            remedy = f"choose a divisor of model.{key}={getattr(cfg, key)}"
            raise ConfigError(f"parallel.{name}", size, f"does not divide model.{key}", remedy)
    if pp > cfg.num_hidden_layers:
        raise ConfigError("parallel.pipeline", pp, "more stages than layers", f"set {cfg.num_hidden_layers} or less")
    if cp > 1 and not _use_te(cfg):
        raise ConfigError("parallel.context", cp, "needs Transformer Engine's attention", "set parallel.context=1")


def _layout(cfg: ModelConfig, pp: int) -> list[list[str]] | None:
    """Layers of each pipeline stage where they do not divide evenly; the last stages, with head and MTP, get fewer."""
    if cfg.num_hidden_layers % pp == 0:
        return None
    each, more = divmod(cfg.num_hidden_layers, pp)
    stages = [["decoder"] * (each + (stage < more)) for stage in range(pp)]
    stages[0].insert(0, "embedding")
    stages[-1] += ["mtp"] * cfg.num_nextn_predict_layers + ["loss"]
    return stages
