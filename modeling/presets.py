"""Published shapes by name: `671b` (DeepSeek-V3), `16b` (Moonlight), `v2_lite` (DeepSeek-V2-Lite), and those for CPU
cores: `tiny`, `small`, the students `tiny_qwen2`, `tiny_llama`. What a shape does not name is ModelConfig's default.
"""

from typing import Any

from modeling.config import DType, Family, ScoringFunc

_V2_SHAPE = dict(
    hidden_size=2048,
    num_hidden_layers=27,
    num_attention_heads=16,
    q_lora_rank=None,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    first_k_dense_replace=1,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1408,
    num_nextn_predict_layers=0,
    dtype=DType.bf16,
)

_STUDENT = dict(num_hidden_layers=4, num_key_value_heads=2, intermediate_size=320)

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    # Dense students of the tiny teacher, as Qwen2.5 and Llama 3 are of R1: grouped-query attention, four layers.
    "tiny_qwen2": _STUDENT | dict(family=Family.qwen2, tie_word_embeddings=True),
    "tiny_llama": _STUDENT | dict(family=Family.llama),
    "small": dict(
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        q_lora_rank=192,
        kv_lora_rank=96,
        intermediate_size=704,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=96,
        n_group=4,
        topk_group=2,
        max_position_embeddings=1024,
        routed_scaling_factor=2.5,
    ),
    "16b": _V2_SHAPE
    | dict(
        vocab_size=163840,
        intermediate_size=11264,
        routed_scaling_factor=2.446,
        max_position_embeddings=8192,
        rope_theta=50000.0,
        rms_norm_eps=1e-5,
    ),
    "v2_lite": _V2_SHAPE
    | dict(
        vocab_size=102400,
        intermediate_size=10944,
        scoring_func=ScoringFunc.softmax,
        aux_loss_alpha=1e-3,
        max_position_embeddings=163840,
        rope_factor=40.0,
        rope_mscale=0.707,
        rope_mscale_all_dim=0.707,
    ),
    "671b": dict(
        vocab_size=129280,
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=18432,
        first_k_dense_replace=3,
        n_routed_experts=256,
        num_experts_per_tok=8,
        moe_intermediate_size=2048,
        n_group=8,
        topk_group=4,
        routed_scaling_factor=2.5,
        max_position_embeddings=4096,
        initializer_range=0.006,
        dtype=DType.bf16,
    ),
}
