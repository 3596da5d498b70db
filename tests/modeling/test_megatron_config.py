"""The presets as Megatron reads them, field by field, and as networks: built without memory, counted by tensor.

The values are those of the published recipes (Megatron-LM 0.19, Megatron-Bridge, slime, the models' config.json).
"""

import dataclasses
import math

import pytest
import torch

from experiments.config import compose
from modeling import hf_names
from modeling.build import build_model, megatron_config
from modeling.config import Family, ModelConfig
from modeling.meta import on_meta
from training import parallel
from training.config import RECOMPUTE, ParallelConfig

ALIKE = dict(
    multi_latent_attention=True, qk_layernorm=True, kv_lora_rank=512, qk_head_dim=128, qk_pos_emb_head_dim=64,
    v_head_dim=128, normalization="RMSNorm", rope_type="yarn", original_max_position_embeddings=4096, beta_fast=32,
    beta_slow=1, moe_router_pre_softmax=True, moe_router_dtype="fp32", moe_router_load_balancing_type="seq_aux_loss",
    moe_token_dispatcher_type="alltoall", gated_linear_unit=True, add_bias_linear=False, hidden_dropout=0.0,
    attention_dropout=0.0, bf16=True, params_dtype=torch.bfloat16, mtp_num_layers=None,
    kv_channels=128, init_method_std=0.02, moe_expert_capacity_factor=None, recompute_granularity=None, fp8=None,
)  # fmt: skip
SMALL = ALIKE | dict(
    num_layers=27, hidden_size=2048, num_attention_heads=16, q_lora_rank=None, num_moe_experts=64, moe_router_topk=6,
    moe_ffn_hidden_size=1408, moe_shared_expert_intermediate_size=2816, moe_layer_freq=[0] + [1] * 26,
    moe_router_num_groups=None, moe_router_group_topk=None,
)  # fmt: skip
FIELDS = {
    "671b": ALIKE | dict(
        num_layers=61, hidden_size=7168, ffn_hidden_size=18432, num_attention_heads=128, q_lora_rank=1536,
        layernorm_epsilon=1e-6, rotary_base=10000, mscale=1.0, mscale_all_dim=1.0, num_moe_experts=256,
        moe_router_topk=8, moe_ffn_hidden_size=2048, moe_shared_expert_intermediate_size=2048,
        moe_layer_freq=[0] * 3 + [1] * 58, moe_router_score_function="sigmoid", moe_router_enable_expert_bias=True,
        moe_router_num_groups=8, moe_router_group_topk=4, moe_router_topk_scaling_factor=2.5, moe_aux_loss_coeff=1e-4,
        init_method_std=0.006, mtp_num_layers=1, rotary_scaling_factor=1,  # 40 once the context is extended
    ),
    "v2_lite": SMALL | dict(
        ffn_hidden_size=10944, layernorm_epsilon=1e-6, rotary_base=10000, rotary_scaling_factor=40, mscale=0.707,
        mscale_all_dim=0.707, moe_router_score_function="softmax", moe_router_enable_expert_bias=False,
        moe_router_topk_scaling_factor=1.0, moe_aux_loss_coeff=1e-3,
    ),
    "16b": SMALL | dict(
        ffn_hidden_size=11264, layernorm_epsilon=1e-5, rotary_base=50000, rotary_scaling_factor=1, mscale=1.0,
        mscale_all_dim=1.0, moe_router_score_function="sigmoid", moe_router_enable_expert_bias=True,
        moe_router_topk_scaling_factor=2.446,
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", FIELDS)
def test_megatron_reads_the_published_fields(preset):
    config = megatron_config(ModelConfig.preset(preset))
    found = {name: getattr(config, name) for name in FIELDS[preset]}
    assert found == FIELDS[preset]


def test_megatrons_defaults_that_bite_are_not_relied_on():
    """Where Megatron's own default is another model, the table above must say something else."""
    defaults = {f.name: f.default for f in dataclasses.fields(type(megatron_config(ModelConfig.preset("671b"))))}
    assert (defaults["q_lora_rank"], defaults["mscale_all_dim"], defaults["rotary_scaling_factor"]) == (512, 0.0, 40)
    assert (defaults["moe_router_dtype"], defaults["moe_layer_freq"], defaults["layernorm_epsilon"]) == (None, 1, 1e-5)


def test_recompute_names_are_megatrons():
    cfg = ModelConfig.preset("671b")
    for name in set(RECOMPUTE) - {"full", "moe_act"}:
        config = megatron_config(cfg, recompute=[name])  # which Megatron would refuse if it did not know it
        assert (config.recompute_granularity, config.recompute_modules) == ("selective", [name])
    whole = megatron_config(cfg, recompute=["full"])
    assert (whole.recompute_granularity, whole.recompute_method, whole.recompute_num_layers) == ("full", "uniform", 1)
    with pytest.raises(AssertionError, match="mla_up_projection"):
        megatron_config(cfg, recompute=["mla_up_projection"])


@pytest.mark.parametrize("name", ["v3_extend_32k", "v3_extend_128k"])
def test_the_extended_context_as_megatron_reads_it(name):
    config = megatron_config(compose("pretrain", [f"experiment={name}"]).model)
    found = {key: getattr(config, key) for key in FIELDS["671b"] if "rope" in key or "rot" in key or "mscale" in key}
    assert found == dict(rope_type="yarn", rotary_base=10000, rotary_scaling_factor=40, mscale=1.0, mscale_all_dim=1.0)
    assert (config.beta_fast, config.beta_slow, config.original_max_position_embeddings) == (32, 1, 4096)


@pytest.fixture(scope="module", autouse=True)
def groups():
    parallel.init(ParallelConfig(), seed=0)


def test_the_671b_preset_builds_and_has_the_papers_count():
    cfg = ModelConfig.preset("671b")
    with on_meta():
        module = build_model(cfg)
    assert len(module.decoder.layers) == 61 and all(p.is_meta for p in module.parameters())
    count = dict.fromkeys(["model", "mtp"], 0)
    layers = [0] * 61
    tensors = {name: t for name, t in module.state_dict().items() if torch.is_tensor(t)}
    for name, tensor in tensors.items():
        count["mtp" if name.startswith("mtp.") else "model"] += tensor.numel()
        if name.startswith("decoder.layers."):
            layers[int(name.split(".")[2])] += tensor.numel()
    # V3's arithmetic (cluster_facts 6): MLA 187,107,328; dense MLP 396,361,728; experts of a layer 11,320,164,608.
    assert layers == [187_107_328 + 14_336 + 396_361_728] * 3 + [187_107_328 + 14_336 + 11_320_164_608] * 58
    assert count == {"model": 671_026_419_200, "mtp": 11_610_068_224}
    # Every one of them has a place in the released files.
    slots = [slot for name, tensor in tensors.items() for slot in hf_names.slots(name, tensor, cfg)]
    assert {slot.name: slot.shape for slot in slots} == hf_names.expected(cfg)


def test_released_v3_has_the_softmax_scale_of_its_extended_context():
    cfg = dataclasses.replace(
        ModelConfig.preset("671b"), rope_factor=40.0, num_hidden_layers=4, num_nextn_predict_layers=0
    )
    with on_meta():
        attention = build_model(cfg).decoder.layers[0].self_attention
    mscale = 0.1 * 1.0 * math.log(40) + 1
    assert attention.softmax_scale == pytest.approx(mscale**2 / math.sqrt(192)) == pytest.approx(0.13523, abs=1e-5)


def test_latent_norms_add_what_deepseeks_code_adds():
    # Moonlight's rms_norm_eps is 1e-5, but its norms of query and key-value are made without it (transformers, too).
    with on_meta():
        layer = build_model(dataclasses.replace(ModelConfig.preset("16b"), num_hidden_layers=2)).decoder.layers[0]
    assert layer.input_layernorm.eps == layer.pre_mlp_layernorm.eps == 1e-5
    assert layer.self_attention.kv_layernorm.eps == 1e-6


def test_dense_families_as_megatron_reads_them():
    shape = dict(num_attention_heads=16, num_key_value_heads=8, head_dim=64, hidden_size=512)
    qwen3 = megatron_config(ModelConfig(family=Family.qwen3, **shape))
    assert (qwen3.num_query_groups, qwen3.kv_channels, qwen3.qk_layernorm, qwen3.add_qkv_bias) == (8, 64, True, False)
    qwen2 = megatron_config(ModelConfig(family=Family.qwen2, **shape))
    assert (qwen2.qk_layernorm, qwen2.add_qkv_bias, qwen2.add_bias_linear) == (False, True, False)
    llama = megatron_config(ModelConfig(family=Family.llama, **shape))
    assert not llama.multi_latent_attention and llama.num_moe_experts is None and llama.mtp_num_layers is None
