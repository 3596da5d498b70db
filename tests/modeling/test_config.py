"""ModelConfig: counts against the published numbers and the built model, Hugging Face's config, and every check."""

import dataclasses

import pytest

from infra.errors import ConfigError
from modeling.build import build_model
from modeling.config import DType, Family, ModelConfig, ScoringFunc
from modeling.presets import PRESETS
from training import parallel
from training.parallel import ParallelConfig


def test_671b_has_the_published_counts():
    cfg = ModelConfig.preset("671b")
    assert cfg.num_params() == 671_026_419_200
    assert cfg.active_params() == pytest.approx(37.55e9, rel=1e-3)
    # The released files hold 685B: the MTP module, and its copies of embedding and head.
    released = cfg.num_params(mtp=True) + 2 * cfg.vocab_size * cfg.hidden_size
    assert released == pytest.approx(684.5e9, rel=1e-3)
    assert cfg.kv_elements_per_token() == 35_136
    assert cfg.flops_per_token(4096) == pytest.approx(250.5e9, rel=1e-3)


def test_other_presets_have_the_published_counts():
    assert ModelConfig.preset("v2_lite").num_params() == pytest.approx(15.7e9, rel=1e-2)
    assert ModelConfig.preset("v2_lite").active_params() == pytest.approx(2.66e9, rel=1e-2)
    assert ModelConfig.preset("16b").num_params() == pytest.approx(16e9, rel=1e-2)


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("mtp", [0, 1, 2])
def test_counts_equal_the_built_model(preset, mtp):
    cfg = dataclasses.replace(ModelConfig.preset(preset), num_nextn_predict_layers=mtp)
    parallel.init(ParallelConfig(), seed=0)
    module = build_model(cfg)
    tensors = [*module.parameters(), *(b for name, b in module.named_buffers() if name.endswith("expert_bias"))]
    assert sum(t.numel() for t in tensors) == cfg.num_params(mtp=True)
    main = [t for name, t in module.named_parameters() if not name.startswith("mtp.")]
    bias = (cfg.num_hidden_layers - cfg.first_k_dense_replace) * cfg.n_routed_experts
    assert sum(t.numel() for t in main) + bias == cfg.num_params()


def test_flops_of_a_network_small_enough_to_count_by_hand():
    cfg = ModelConfig(
        vocab_size=10,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        q_lora_rank=None,
        kv_lora_rank=2,
        qk_nope_head_dim=2,
        qk_rope_head_dim=2,
        v_head_dim=2,
        first_k_dense_replace=0,
        n_routed_experts=2,
        n_shared_experts=0,
        moe_intermediate_size=3,
        num_nextn_predict_layers=0,
    )
    # q 4x4, latent 4x(2+2), expand 2x(2+2), output 2x4; two experts of 3 matrices 4x3; router 4x2; head 4x10.
    matrices = 16 + 16 + 8 + 8 + 2 * 36 + 8 + 40
    # Norms of 4, 4 and 4, of the latent 2, and the router's bias 2 ride along as if they were matrices.
    small = 4 + 4 + 4 + 2 + 2
    # Causal: a token sees half of 6 on average; scores over 4 dimensions, values over 2, 2 FLOPs each.
    attention = 2 * 6 / 2 * (4 + 2)
    assert cfg.flops_per_token(6) == 3 * (2 * (matrices + small) + attention)


@pytest.mark.parametrize("preset", PRESETS)
def test_hf_dict_and_back_is_the_same_config(preset):
    cfg = ModelConfig.preset(preset)
    assert ModelConfig.from_hf_dict(cfg.to_hf_dict()) == cfg


def test_every_shared_field_survives_the_way_through_hf():
    changed = ModelConfig(
        vocab_size=640, hidden_size=96, num_hidden_layers=5, num_attention_heads=3, q_lora_rank=None, kv_lora_rank=40,
        qk_nope_head_dim=20, qk_rope_head_dim=12, v_head_dim=24, intermediate_size=200, first_k_dense_replace=2,
        n_routed_experts=12, n_shared_experts=2, num_experts_per_tok=4, moe_intermediate_size=72, n_group=3,
        topk_group=2, routed_scaling_factor=1.5, aux_loss_alpha=2e-4, num_nextn_predict_layers=2,
        max_position_embeddings=777, rope_theta=5e4, rope_factor=8.0, rope_original_max_position_embeddings=99,
        rope_beta_fast=16.0, rope_beta_slow=2.0, rope_mscale=0.5, rope_mscale_all_dim=0.7, rms_norm_eps=1e-5,
        initializer_range=0.03, dtype=DType.bf16,
    )  # fmt: skip
    default = ModelConfig()
    dense = {"family", "num_key_value_heads", "head_dim", "tie_word_embeddings"}  # the next test's
    how = {
        "scoring_func",
        "experts",
        "modules",
        "fp8",
        "vision",
    }  # the first decides the model type; the others are no shape
    ours = dense | how | {"head"}  # head and vision have their own, test_score_head.py and test_vision.py
    for field in dataclasses.fields(ModelConfig):
        same = getattr(changed, field.name) == getattr(default, field.name)
        assert same == (field.name in ours), f"{field.name}: give it another value here"
    assert ModelConfig.from_hf_dict(changed.to_hf_dict()) == changed


@pytest.mark.parametrize("family", [f for f in Family if f is not Family.deepseek])
def test_every_field_of_a_dense_family_survives_the_way_through_hf(family):
    scaled = dict(rope_factor=32.0, rope_original_max_position_embeddings=8192) if family is Family.llama else {}
    cfg = ModelConfig(
        family=family, vocab_size=640, hidden_size=96, num_hidden_layers=5, num_attention_heads=6,
        num_key_value_heads=3, head_dim=24, tie_word_embeddings=True, intermediate_size=200,
        max_position_embeddings=777, rope_theta=5e4, rms_norm_eps=1e-5, initializer_range=0.03, dtype=DType.bf16,
        **scaled,
    )  # fmt: skip
    assert ModelConfig.from_hf_dict(cfg.to_hf_dict()) == cfg


# Published counts: the models' cards, in billions ("0.49B", "0.6B", "8.03B", "1.24B").
DENSE = {
    "Qwen2.5-0.5B": (0.494e9, dict(
        family=Family.qwen2, vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864, tie_word_embeddings=True,
    )),
    "Qwen3-0.6B": (0.596e9, dict(
        family=Family.qwen3, vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, intermediate_size=3072, tie_word_embeddings=True,
    )),
    "Llama-3.1-8B": (8.03e9, dict(
        family=Family.llama, vocab_size=128256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, intermediate_size=14336,
    )),
    "Llama-3.2-1B": (1.236e9, dict(
        family=Family.llama, vocab_size=128256, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, intermediate_size=8192, tie_word_embeddings=True,
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_dense_families_have_the_published_counts(name):
    published, fields = DENSE[name]
    cfg = ModelConfig(**fields)
    assert cfg.num_params() == cfg.active_params() == pytest.approx(published, rel=2e-3)
    assert cfg.kv_elements_per_token() == 2 * cfg.num_hidden_layers * cfg.num_key_value_heads * cfg.head_dim


def test_flops_of_a_dense_network_small_enough_to_count_by_hand():
    cfg = ModelConfig(
        family=Family.qwen2, vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=3, tie_word_embeddings=True,
    )  # fmt: skip
    # q 4x4, k and v 4x2 each, output 4x4; SwiGLU of 3 matrices 4x3; the head 4x10, which is the embedding.
    matrices = 16 + 2 * 8 + 16 + 3 * 12 + 40
    small = 3 * 4 + (4 + 2 + 2)  # norms, and the bias of query, key and value
    attention = 2 * 6 / 2 * (2 * 2 + 2 * 2)  # two heads, scores and values over 2 dimensions each
    assert cfg.flops_per_token(6) == 3 * (2 * (matrices + small) + attention)


def test_the_released_config_json_is_the_671b_preset():
    # deepseek-ai/DeepSeek-V3, config.json, without its quantisation and training settings.
    released = {
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
        "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
        "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
        "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280,
    }  # fmt: skip
    read = ModelConfig.from_hf_dict(released)
    extended = dict(rope_factor=40, max_position_embeddings=163840)  # V3 section 4.3; the preset is the pre-training's
    trained = dict(aux_loss_alpha=0.001, initializer_range=0.02)
    assert read == dataclasses.replace(ModelConfig.preset("671b"), **extended, **trained)


def test_hf_dict_of_another_family_or_without_shape_is_refused():
    known = "deepseek_v3, deepseek_v2, qwen2, qwen3, llama"
    with pytest.raises(ConfigError, match=rf"model_type=gemma3: .*; give one of {known}"):
        ModelConfig.from_hf_dict({"model_type": "gemma3"})
    whole = ModelConfig().to_hf_dict()
    del whole["vocab_size"], whole["kv_lora_rank"]
    with pytest.raises(ConfigError, match=r"config\.json=vocab_size, kv_lora_rank: missing; give a complete"):
        ModelConfig.from_hf_dict(whole)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(
        ConfigError,
        match=r"model=7b: is no preset; choose one of tiny, tiny_qwen2, tiny_llama, small, 16b, v2_lite, 671b",
    ):
        ModelConfig.preset("7b")


def test_for_vocab_rounds_up_to_64():
    sizes = [ModelConfig().for_vocab(tokens).vocab_size for tokens in (1, 64, 65, 130)]
    assert sizes == [64, 64, 128, 192]


SOFTMAX, QWEN = ScoringFunc.softmax, Family.qwen2
REJECTED = [
    *((dict([(key, 0)]), key, "has to be positive; set model.{key} above 0") for key in (
        "vocab_size hidden_size num_hidden_layers num_attention_heads kv_lora_rank qk_nope_head_dim v_head_dim "
        "intermediate_size n_routed_experts num_experts_per_tok moe_intermediate_size n_group topk_group "
        "max_position_embeddings rope_theta rms_norm_eps initializer_range rope_factor routed_scaling_factor"
    ).split()),
    *((dict([(key, -1)]), key, "cannot be negative; set model.{key}=0 or more") for key in (
        "n_shared_experts first_k_dense_replace num_nextn_predict_layers aux_loss_alpha"
    ).split()),
    (dict(q_lora_rank=0), "q_lora_rank", "has to be positive; set model.q_lora_rank=null"),
    (dict(qk_rope_head_dim=0), "qk_rope_head_dim", "works on pairs; set an even number above 0"),
    (dict(qk_rope_head_dim=15), "qk_rope_head_dim", "works on pairs; set an even number above 0"),
    (dict(first_k_dense_replace=3), "first_k_dense_replace", "leaves no expert layer of 3; set model.{key} below 3"),
    (dict(num_experts_per_tok=9), "num_experts_per_tok", "there are 8 experts; set model.{key} to 8 or less"),
    (dict(num_experts_per_tok=1), "num_experts_per_tok", "normalised over at least two; set 2 or more"),
    (dict(topk_group=2), "topk_group", "there is one group; set model.topk_group=1, or model.n_group above 1"),
    (dict(n_group=2, scoring_func=SOFTMAX), "n_group", "defined for sigmoid scores; set model.n_group=1"),
    (dict(n_group=3), "n_group", "has to cut 8 experts into equal groups of 2 or more; set a divisor"),
    (dict(n_group=8), "n_group", "has to cut 8 experts into equal groups of 2 or more; set a divisor"),
    (dict(n_group=2, topk_group=3), "topk_group", "there are 2 groups; set model.topk_group to 2 or less"),
    (dict(n_group=4, topk_group=2), "topk_group", "has to be twice this; set model.num_experts_per_tok=4"),
    (dict(num_key_value_heads=2), "num_key_value_heads", "is for dense families; leave it out, or set model.family"),
    (dict(num_key_value_heads=3, family=QWEN), "num_key_value_heads", "set a divisor of model.num_attention_heads=4"),
    (dict(head_dim=15, family=QWEN), "head_dim", "works on pairs; set an even number above 0"),
    (dict(rope_factor=4.0, family=QWEN), "rope_factor", "qwen2 has the plain rotary embedding; set model.{key}=1"),
    (dict(rope_original_max_position_embeddings=4096, rope_factor=8.0, family=Family.llama),
     "rope_original_max_position_embeddings", "Megatron scales Llama 3 from 8192; set 8192"),
]  # fmt: skip


@pytest.mark.parametrize("changes, key, words", REJECTED, ids=[f"{c}" for c, _, _ in REJECTED])
def test_a_shape_that_cannot_work_is_refused_with_key_value_and_remedy(changes, key, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**changes)
    assert (caught.value.key, caught.value.value) == (f"model.{key}", changes[key])
    assert str(caught.value).startswith(f"model.{key}={changes[key]}: ")
    assert words.format(key=key) in str(caught.value)


def test_softmax_router_may_choose_one_expert():
    assert ModelConfig(num_experts_per_tok=1, scoring_func=SOFTMAX).active_params() > 0
