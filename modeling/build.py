"""ModelConfig -> Megatron-core config, layer spec and model. The one file that knows Megatron's field names, and that
would change if the model moved from GPTModel to HybridModel.

Two sets of building blocks: Transformer Engine's on CUDA, Megatron's local ones elsewhere, with our own norm, core
attention and experts put into the spec. Process groups have to exist (training/parallel.py).
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from infra.errors import ConfigError
from modeling import cpu, fp8
from modeling.config import DType, Experts, Fp8, Head, ModelConfig, Modules

cpu.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import (  # noqa: E402
    get_gpt_decoder_block_spec,
    get_gpt_decoder_layer_specs,
    get_gpt_mtp_block_spec,
)
from megatron.core.tensor_parallel import ColumnParallelLinear  # noqa: E402
from megatron.core.transformer import MLATransformerConfig, TransformerConfig  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.moe.moe_layer import MoELayer  # noqa: E402
from megatron.core.utils import init_method_normal  # noqa: E402

from modeling.attention import (  # noqa: E402
    CoreAttention,
    DirectQueryAttention,
    LatentAttention,
    ResidualRMSNorm,
    RMSNorm,
)
from modeling.experts import BatchedExperts  # noqa: E402
from modeling.fp8_modules import Fp8Experts, use_fp8  # noqa: E402
from modeling.grouped import GroupedCore  # noqa: E402
from modeling.mtp import MTPLayer  # noqa: E402
from modeling.recompute import recompute_fields  # noqa: E402
from modeling.router import Router  # noqa: E402
from modeling.score_head import ScoreModel  # noqa: E402
from modeling.vision_config import Vision  # noqa: E402


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
    vp: int = 1,
    vp_stage: int = 0,
    layout: str = "",
    recompute: Sequence[str] = (),
) -> GPTModel:
    """Build this rank's part of the network, unwrapped, with parameters in cfg.dtype.

    pre_process and post_process say whether this pipeline stage holds the embedding and the head. The sizes have to be
    those of the process groups. vp_stage: number of the stage among the vp on this rank; layout: what each stage holds,
    as Megatron writes it; empty: as many layers each. recompute: what the backward pass computes anew, "full" for whole
    layers, else Megatron's recompute_modules.

    model(tokens [batch, seq], position_ids [batch, seq], attention_mask, labels=...) gives the loss per token
    [batch, seq] (FP32), or without labels the logits [batch, seq, vocab]; with cfg.vision it takes images=, too
    (modeling/vision.py); with cfg.head=score and any labels it gives
    scores [batch, seq]. attention_mask is None (causal) or bool
    [batch, 1, seq, seq], True where hidden.
    """
    sizes = dict(tp=tp, pp=pp, ep=ep, cp=cp, sequence_parallel=sequence_parallel, vp=vp)
    config = megatron_config(cfg, **sizes, layout=layout, recompute=recompute)
    te, stage = uses_te(cfg), vp_stage if vp > 1 else None
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=te, normalization="RMSNorm", vp_stage=stage)
    last = get_gpt_decoder_layer_specs(config, use_transformer_engine=te, normalization="RMSNorm")[-1]
    mtp = None
    if config.mtp_num_layers:
        mtp = get_gpt_mtp_block_spec(config, last, use_transformer_engine=te, vp_stage=stage)
    for layer in {id(spec): spec for spec in [*block.layer_specs, last]}.values():
        if not cfg.is_dense:
            compressed = cfg.q_lora_rank is not None
            layer.submodules.self_attention.module = LatentAttention if compressed else DirectQueryAttention
        _change_moe(layer.submodules, router=Router)
        if not te:
            _use_own_modules(layer.submodules, cfg, recompute)
    for layer in mtp.layer_specs if mtp else []:
        layer.module = MTPLayer
        layer.submodules.eh_proj = ColumnParallelLinear  # out of reach of Transformer Engine's FP8
    if not te:
        block.layer_norm = RMSNorm
        for layer in mtp.layer_specs if mtp else []:
            layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = RMSNorm
    score, kind = cfg.head is Head.score, ScoreModel if cfg.head is Head.score else GPTModel
    if cfg.vision is not Vision.none:
        from modeling.vision import ImageModel, check_layout

        check_layout(cfg, tensor=tp, pipeline=pp, context=cp)
        kind = functools.partial(ImageModel, model_cfg=cfg)
    model = kind(
        config,
        block,
        vocab_size=cfg.vocab_size,
        max_sequence_length=cfg.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        position_embedding_type="rope",
        rotary_base=cfg.rope_theta,  # with latent attention these three are the config's
        rope_scaling=cfg.is_dense and cfg.rope_factor != 1,
        rope_scaling_factor=cfg.rope_factor,
        share_embeddings_and_output_weights=cfg.tie_word_embeddings and not score,
        mtp_block_spec=mtp,
        vp_stage=stage,
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
    vp: int = 1,
    layout: str = "",
    recompute: Sequence[str] = (),
) -> TransformerConfig:
    """The Megatron config of cfg under these parallel sizes. sequence_parallel None: on with tensor parallelism.

    Raises ConfigError where the sizes do not divide the shape.
    """
    _check_sizes(cfg, tp=tp, pp=pp, ep=ep, cp=cp)
    te = uses_te(cfg)
    te_fp8 = fp8.carrier(cfg) is Fp8.te
    dtype = torch.bfloat16 if cfg.dtype is DType.bf16 else torch.float32
    init = init_method_normal(cfg.initializer_range)
    kind, parts = (TransformerConfig, _grouped(cfg)) if cfg.is_dense else (MLATransformerConfig, _latent(cfg, te, cp))
    return kind(
        **parts,
        **recompute_fields(cfg, te, recompute),
        num_layers=cfg.num_hidden_layers,
        hidden_size=cfg.hidden_size,
        ffn_hidden_size=cfg.intermediate_size,
        num_attention_heads=cfg.num_attention_heads,
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
        init_method_std=cfg.initializer_range,
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
        pipeline_model_parallel_layout=layout or None,
        virtual_pipeline_model_parallel_size=vp if vp > 1 else None,
        # Two ranks are each other's previous and next: what goes both ways must not be one batch of messages.
        overlap_p2p_comm=vp > 1,
        batch_p2p_comm=vp == 1,
        context_parallel_size=cp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=1,
        sequence_parallel=tp > 1 if sequence_parallel is None else sequence_parallel,
    )


def _latent(cfg: ModelConfig, te: bool, cp: int) -> dict[str, Any]:
    """What Megatron's config says of attention, experts and multi-token prediction in DeepSeek's family."""
    return dict(
        # Attention (V3 section 2.1.1)
        multi_latent_attention=True,
        qk_layernorm=True,
        q_lora_rank=cfg.q_lora_rank,
        kv_lora_rank=cfg.kv_lora_rank,
        qk_head_dim=cfg.qk_nope_head_dim,
        qk_pos_emb_head_dim=cfg.qk_rope_head_dim,
        v_head_dim=cfg.v_head_dim,
        kv_channels=cfg.v_head_dim,
        rope_type="yarn",  # which is the plain rotary embedding at factor 1
        apply_rope_fusion=_fuse_rope(cfg) and cp == 1,  # Megatron keeps its table as cut for the longest row
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
    )


def _grouped(cfg: ModelConfig) -> dict[str, Any]:
    """What Megatron's config says of attention in the dense families."""
    return dict(
        num_query_groups=cfg.num_key_value_heads,
        kv_channels=cfg.head_dim,
        add_qkv_bias=cfg.has_qkv_bias,
        qk_layernorm=cfg.has_qk_norm,
    )


def uses_te(cfg: ModelConfig) -> bool:
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


class LatentNorm(RMSNorm):
    """Of the compressed query and key-value, where DeepSeek's code adds 1e-6 whatever rms_norm_eps is (Moonlight)."""

    def __init__(self, config: Any, hidden_size: int, eps: float | None = None, **kwargs: Any) -> None:
        super().__init__(config, hidden_size, eps=1e-6, **kwargs)


def _use_own_modules(layer: Any, cfg: ModelConfig, recompute: Sequence[str]) -> None:
    """Put our norm, core attention and experts into the spec of one layer."""
    # What is recomputed gives up its outputs' memory, and the residual's is the norm's input.
    norm = RMSNorm if "layernorm" in recompute else ResidualRMSNorm
    for name in ("input_layernorm", "pre_mlp_layernorm"):
        if getattr(layer, name) is not IdentityOp:
            setattr(layer, name, norm)
    if cfg.experts is not Experts.sequential:
        product = fp8.PRODUCTS.get(fp8.carrier(cfg))
        _change_moe(layer, experts=functools.partial(Fp8Experts, product=product) if product else BatchedExperts)
    attention = layer.self_attention.submodules
    if cfg.is_dense:
        attention.core_attention = GroupedCore
        attention.q_layernorm = attention.k_layernorm = RMSNorm if cfg.has_qk_norm else IdentityOp
        return
    attention.core_attention = CoreAttention
    attention.q_layernorm = LatentNorm if cfg.q_lora_rank is not None else IdentityOp
    attention.kv_layernorm = LatentNorm


def _change_moe(layer: Any, **submodules: Any) -> None:
    """Put these submodules into the mixture of experts of one layer's spec; nothing in a dense layer."""
    mlp = layer.mlp
    if isinstance(mlp, functools.partial) and mlp.func is MoELayer:
        layer.mlp = functools.partial(
            MoELayer, submodules=dataclasses.replace(mlp.keywords["submodules"], **submodules)
        )


def _check_sizes(cfg: ModelConfig, *, tp: int, pp: int, ep: int, cp: int) -> None:
    """Raise ConfigError where the parallel sizes do not fit the shape."""
    te = uses_te(cfg)
    if cfg.is_dense and ep > 1:
        raise ConfigError("parallel.expert", ep, f"{cfg.family.name} has no experts", "set parallel.expert=1")
    split = {key: getattr(cfg, key) for key in ("num_attention_heads", "vocab_size", "intermediate_size")}
    if cfg.is_dense:
        split["num_key_value_heads"] = cfg.num_key_value_heads
    else:
        split["n_shared_experts*moe_intermediate_size"] = cfg.n_shared_experts * cfg.moe_intermediate_size
    if not te:  # Transformer Engine's down projections are whole on each rank
        split["q_lora_rank"] = cfg.q_lora_rank or 0
        split["kv_lora_rank+qk_rope_head_dim"] = 0 if cfg.is_dense else cfg.kv_lora_rank + cfg.qk_rope_head_dim
    for key, whole in split.items():
        _check_divides("tensor", tp, key, whole)
    _check_divides("expert", ep, "n_routed_experts", cfg.n_routed_experts)
    if pp > cfg.num_hidden_layers:
        raise ConfigError("parallel.pipeline", pp, "more stages than layers", f"set {cfg.num_hidden_layers} or less")
    if cp > 1 and not cfg.is_dense:  # Megatron makes a table of so many positions, and cuts it like a row
        key = "rope_original_max_position_embeddings"
        _check_divides("context", cp, key, getattr(cfg, key), parts=2)


def _check_divides(key: str, size: int, what: str, whole: int, parts: int = 1) -> None:
    """Raise ConfigError, with the nearest sizes that do, where a parallel size does not divide a size of the model.

    parts: how many parts each rank gets.
    """
    if whole % (parts * size):
        legal = [divisor for divisor in range(1, whole + 1) if whole % (parts * divisor) == 0]
        near = [*[d for d in legal if d < size][-1:], *[d for d in legal if d > size][:1]]
        remedy = f"set {' or '.join(map(str, near or [1]))}"
        problem = f"does not divide model.{what}={whole}" + (f" into {parts} parts for each" if parts > 1 else "")
        raise ConfigError(f"parallel.{key}", size, problem, remedy)
