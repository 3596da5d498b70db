"""Recomputed activations: the same loss and gradients, and the forward pass really runs again."""

import pytest

from infra.errors import ConfigError
from modeling.build import build_model
from modeling.config import Experts, Family, ModelConfig
from tests.training import tiny
from training.config import ParallelConfig
from training.layout import check_model
from training.losses import next_token_loss
from training.schedules import Now
from training.step import train_step

# What is recomputed, and a part of the network that has to run twice then.
PARTS = {
    "full": "decoder.layers.1.self_attention.linear_proj",
    "mla_up_proj": "decoder.layers.1.self_attention.linear_kv_up_proj",
    "layernorm": "decoder.layers.1.input_layernorm",
    "mlp": "decoder.layers.0.mlp.linear_fc1",
    "moe": "decoder.layers.1.mlp.router",
    "shared_experts": "decoder.layers.1.mlp.shared_experts.linear_fc1",
    "core_attn": "decoder.layers.1.self_attention.core_attention",
}
TOGETHER = ["mla_up_proj", "layernorm", "moe_act", "mlp", "shared_experts"]


def _step(recompute: list[str], part: str, **model) -> tuple[dict, dict, int, list]:
    """Metrics, gradients, how often the part ran, and the experts' bias, of a step in two micro-batches with MTP."""
    state = tiny.state(0, layout={"recompute": recompute}, model={"aux_loss_alpha": 0.1} | model)
    calls = []
    state.module.get_submodule(part).register_forward_pre_hook(lambda *_: calls.append(1))
    now = Now(mtp_lambda=0.3, bias_speed=0.01)
    metrics = train_step(state, tiny.split(tiny.rows(1), 2), next_token_loss, now)
    return metrics, tiny.gradients(state), len(calls), [router.expert_bias.tolist() for router in state.routers]


@pytest.mark.parametrize("name", PARTS)
def test_what_is_recomputed_gives_the_same_step(name):
    kept, again = _step([], PARTS[name]), _step([name], PARTS[name])
    assert (kept[2], again[2]) == (2, 4)
    assert again[0] == pytest.approx(kept[0], rel=1e-6) and again[3] == kept[3]
    tiny.close(again[1], kept[1], 1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_parts_together_give_the_same_step(dtype):
    from modeling.config import DType

    part, model = PARTS["mla_up_proj"], {"dtype": DType[dtype]}
    kept, again = _step([], part, **model), _step(TOGETHER, part, **model)
    assert again[2] == 2 * kept[2]
    tiny.close(again[1], kept[1], 1e-6 if dtype == "fp32" else 2e-2)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["mlps"], ["parallel.recompute=mlps", "mla_up_proj"]),
        (["full", "mlp"], ["parallel.recompute=[full,mlp]", "set [full]"]),
    ],
)
def test_impossible_names_are_refused(names, parts):
    with pytest.raises(ConfigError) as refused:
        ParallelConfig(recompute=names)
    assert all(part in str(refused.value) for part in parts), refused.value


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="parallel.recompute=mla_up_proj: qwen3 has no such part"):
        check_model(ModelConfig(family=Family.qwen3), ParallelConfig(recompute=["mla_up_proj"]))
    with pytest.raises(ConfigError, match="parallel.recompute=moe_act: .*set model.experts=auto"):
        build_model(tiny.model_config(experts=Experts.sequential), recompute=["moe_act"])
