"""ModelConfig: the shape of a network, under Hugging Face's field names, and what follows from it without building
anything: parameters, activated parameters, FLOPs, cache size.

DeepSeek's family has latent attention and experts. The dense families (Llama 3, Qwen2.5, Qwen3) share its other fields,
have grouped-query attention, and 0 in what only DeepSeek has.
"""

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from infra.errors import ConfigError
from modeling import config_checks
from modeling.kinds import DType, Experts, Family, Fp8, Head, Modules, ScoringFunc
from modeling.vision_config import Vision

CONTEXT_FIELDS = (
    "max_position_embeddings rope_factor rope_original_max_position_embeddings rope_beta_fast rope_beta_slow "
    "rope_mscale rope_mscale_all_dim"
).split()
"What a context extension changes (V3 section 4.3); no weight's shape depends on it."


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The network's shape (V3 section 4.2 for 671b). Raises ConfigError on shapes that cannot work."""

    family: Family = Family.deepseek
    """deepseek, or a dense family: llama, qwen2 (bias on query, key, value), qwen3 (norm of query and key)."""
    vocab_size: int = 576
    """Rows of the embedding and of the head; at least the tokenizer's size."""
    hidden_size: int = 128
    """Width of the residual stream."""
    num_hidden_layers: int = 3
    """Decoder layers, the MTP modules not counted."""
    num_attention_heads: int = 4
    """Query heads."""
    num_key_value_heads: int = 0
    """Dense families: heads of key and value, each shared by as many query heads; 0 is one for each."""
    head_dim: int = 0
    """Dense families: dimensions per head; 0 is hidden_size / num_attention_heads."""
    tie_word_embeddings: bool = False
    """Dense families: whether the head is the embedding."""
    q_lora_rank: int | None = 128
    """Rank of the compressed query; null projects the query directly (V2-Lite, Moonlight)."""
    kv_lora_rank: int = 64
    """Rank of the compressed key and value, the latent that is cached when decoding."""
    qk_nope_head_dim: int = 32
    """Query and key dimensions per head without position."""
    qk_rope_head_dim: int = 16
    """Query dimensions per head, and shared key dimensions, that are rotated by position."""
    v_head_dim: int = 32
    """Value dimensions per head."""
    intermediate_size: int = 256
    """Inner width of the dense layers' SwiGLU."""
    first_k_dense_replace: int = 1
    """The first k layers are dense, the others mixtures of experts."""
    n_routed_experts: int = 8
    """Routed experts per MoE layer."""
    n_shared_experts: int = 1
    """Shared experts per MoE layer, built as one of n times the width."""
    num_experts_per_tok: int = 2
    """Routed experts that a token visits."""
    moe_intermediate_size: int = 64
    """Inner width of one expert's SwiGLU."""
    n_group: int = 1
    """Groups of experts for group-limited routing; 1 is no grouping."""
    topk_group: int = 1
    """Groups that a token may choose from."""
    routed_scaling_factor: float = 1.0
    """Factor on the routed experts' sum."""
    scoring_func: ScoringFunc = ScoringFunc.sigmoid
    """Affinity of token and expert; sigmoid brings the bias of auxiliary-loss-free balancing (V3 section 2.1.2)."""
    aux_loss_alpha: float = 1e-4
    """Weight of the sequence-wise balance loss (V3 eq. 17)."""
    num_nextn_predict_layers: int = 1
    """Multi-token prediction depth (V3 section 2.2); 0 builds none."""
    max_position_embeddings: int = 384
    """Longest row in tokens."""
    rope_theta: float = 10000.0
    """Base of the rotary embedding."""
    rope_factor: float = 1.0
    """Scaling factor of the rotary embedding, YaRN's or Llama 3's; 1 is the plain one."""
    rope_original_max_position_embeddings: int = 4096
    """Context length that was trained before scaling extended it."""
    rope_beta_fast: float = 32.0
    """YaRN: rotations above which a dimension is not interpolated."""
    rope_beta_slow: float = 1.0
    """YaRN: rotations below which a dimension is fully interpolated."""
    rope_mscale: float = 1.0
    """YaRN: temperature coefficient of the rotary tables."""
    rope_mscale_all_dim: float = 1.0
    """YaRN: temperature coefficient of the softmax scale."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in every RMSNorm."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    dtype: DType = DType.fp32
    """Type of parameters and activations."""
    head: Head = Head.tokens
    """tokens: a language model; score: one number a token, as reward models have it, made by r1 reward_model."""
    vision: Vision = Vision.none
    """Encoder of images, with its projector (modeling/vision.py), not counted in num_params; r1 captions puts it in."""
    experts: Experts = Experts.auto
    """Routed experts' module: grouped needs Transformer Engine, batched is for CPU; auto takes the fastest at hand."""
    modules: Modules = Modules.auto
    """Building blocks; auto takes Transformer Engine where CUDA and the package are there."""
    fp8: Fp8 = Fp8.none
    """Products in FP8 (V3 section 3.3): te, torch (on Hopper), emulated (anywhere, slow); auto takes what is here."""

    def __post_init__(self) -> None:
        if self.is_dense:
            config_checks.only_dense(self)
        config_checks.check(self)

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """A published or CPU-sized shape by name. Raises ConfigError for unknown names."""
        from modeling.presets import PRESETS

        if name not in PRESETS:
            raise ConfigError("model", name, "is no preset", f"choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    @classmethod
    def from_names(cls, fields: dict[str, Any]) -> "ModelConfig":
        """From plain JSON types, enum members by their name, as a checkpoint keeps a config.

        fp8 stays none: how products were computed is the run's affair, and another machine may not be able to.
        """
        kinds = {f.name: f.type for f in dataclasses.fields(cls)}
        given = {k: kinds[k][v] if isinstance(kinds[k], type(Enum)) else v for k, v in fields.items() if k != "fp8"}
        return cls(**given)

    def for_vocab(self, num_tokens: int) -> "ModelConfig":
        """The same shape for a tokenizer of num_tokens tokens, rounded up to a multiple of 64."""
        return dataclasses.replace(self, vocab_size=math.ceil(num_tokens / 64) * 64)

    @property
    def is_dense(self) -> bool:
        """Whether it has grouped-query attention and no experts."""
        return self.family is not Family.deepseek

    @property
    def has_qkv_bias(self) -> bool:
        """Whether query, key and value have a bias."""
        return self.family is Family.qwen2

    @property
    def has_qk_norm(self) -> bool:
        """Whether each head's query and key are normed."""
        return self.family is Family.qwen3

    @property
    def num_moe_layers(self) -> int:
        """Decoder layers with experts."""
        return self.num_hidden_layers - self.first_k_dense_replace

    @property
    def has_expert_bias(self) -> bool:
        """Whether the router carries the bias of auxiliary-loss-free balancing."""
        return self.scoring_func is ScoringFunc.sigmoid

    def num_params(self, mtp: bool = False) -> int:
        """Parameters, the router's bias included. mtp adds the MTP modules without their shared embedding and head.

        Example: ModelConfig.preset("671b").num_params() == 671_026_419_200.
        """
        layers = self.num_hidden_layers * (self._attention_params() + 2 * self.hidden_size)
        layers += self.first_k_dense_replace * self._dense_params()
        layers += self.num_moe_layers * self._moe_params(self.n_routed_experts)
        head = 1 if self.head is Head.score else self.vocab_size * (not self.tie_word_embeddings)
        total = layers + (self.vocab_size + head + 1) * self.hidden_size
        return total + (self._mtp_params(self.n_routed_experts) if mtp else 0)

    def active_params(self, mtp: bool = False) -> int:
        """Parameters one token passes through, embedding and head included (37.55e9 for 671b)."""
        idle = self.n_routed_experts - self.num_experts_per_tok
        layers = self.num_moe_layers + (self.num_nextn_predict_layers if mtp else 0)
        return self.num_params(mtp) - layers * idle * self._expert_params()

    def flops_per_token(self, seq_len: int, mtp: bool = False) -> float:
        """Forward and backward FLOPs a token in causal rows of seq_len tokens (250.5e9 for 671b at 4096).

        3 * (2 * activated matrix parameters + attention); half of the attention square is computed.
        """
        depth = self.num_nextn_predict_layers if mtp else 0
        heads = self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim
        attention = (self.num_hidden_layers + depth) * self.num_attention_heads * seq_len * heads
        # The embedding is a look-up, unless it is also the head; each MTP depth runs the head once more.
        matmul = self.active_params(mtp) + (depth - 1 + self.tie_word_embeddings) * self.vocab_size * self.hidden_size
        return 3.0 * (2.0 * matmul + attention)

    def kv_elements_per_token(self) -> int:
        """Numbers cached per token when decoding: the latents (35,136 for 671b), or each head's key and value."""
        if self.is_dense:
            return self.num_hidden_layers * 2 * self.num_key_value_heads * self.head_dim
        return self.num_hidden_layers * (self.kv_lora_rank + self.qk_rope_head_dim)

    def to_hf_dict(self) -> dict[str, Any]:
        """config.json of the Hugging Face model of this shape."""
        from modeling import hf_config

        return hf_config.to_dict(self)

    @classmethod
    def from_hf_dict(cls, hf: dict[str, Any]) -> "ModelConfig":
        """The config behind a config.json. Raises ConfigError for a model that cannot be built here."""
        from modeling import hf_config

        return hf_config.from_dict(hf)

    def _attention_params(self) -> int:
        """One layer's attention, its inner norms included."""
        h, n = self.hidden_size, self.num_attention_heads
        if self.is_dense:
            rows = (n + 2 * self.num_key_value_heads) * self.head_dim
            small = rows * self.has_qkv_bias + 2 * self.head_dim * self.has_qk_norm
            return h * rows + n * self.head_dim * h + small
        qk = self.qk_nope_head_dim + self.qk_rope_head_dim
        query = h * n * qk if self.q_lora_rank is None else self.q_lora_rank * (h + 1 + n * qk)
        latent = h * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        expand = self.kv_lora_rank * n * (self.qk_nope_head_dim + self.v_head_dim)
        return query + latent + expand + n * self.v_head_dim * h

    def _dense_params(self) -> int:
        return 3 * self.hidden_size * self.intermediate_size

    def _expert_params(self) -> int:
        return 3 * self.hidden_size * self.moe_intermediate_size

    def _moe_params(self, experts: int) -> int:
        router = self.n_routed_experts * (self.hidden_size + self.has_expert_bias)
        return (experts + self.n_shared_experts) * self._expert_params() + router

    def _mtp_params(self, experts: int) -> int:
        """One decoder layer, a projection from 2h to h, and three norms, per depth (V3 eq. 21)."""
        h = self.hidden_size
        layer = self._attention_params() + self._moe_params(experts) + 2 * h
        return self.num_nextn_predict_layers * (layer + 2 * h * h + 3 * h)
