"""Parameters of one rank: against the published totals, and against ranks of small models as Megatron builds them."""

import dataclasses

import pytest

from infra.planner.params import Params, rank_params, stage_params
from modeling.config import ModelConfig
from modeling.presets import PRESETS
from tests import gloo
from training.config import ParallelConfig
from training.layout import stages

FOUR = dataclasses.replace(ModelConfig(), num_hidden_layers=4)
DIRECT = dataclasses.replace(FOUR, q_lora_rank=None, num_nextn_predict_layers=2)
LAYOUTS = {
    "tensor": ParallelConfig(tensor=2),
    "expert": ParallelConfig(expert=2),
    "pipeline": ParallelConfig(pipeline=2),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("pipeline", [1, 2])
def test_stages_add_up_to_the_whole_network(preset: str, pipeline: int) -> None:
    model = ModelConfig.preset(preset)
    parallel = ParallelConfig(pipeline=pipeline)
    total = sum((stage_params(model, parallel, stage) for stage in stages(model, parallel)), Params())
    copy = model.vocab_size * model.hidden_size if pipeline > 1 and model.num_nextn_predict_layers else 0
    assert total.total == model.num_params(mtp=True) + copy  # the MTP module's stage holds the embedding, too


def test_dualpipe_shares_the_embedding_with_the_mtp_module() -> None:
    model, parallel = ModelConfig.preset("671b"), ParallelConfig(pipeline=16)
    cut = stages(model, parallel)
    apart = stage_params(model, parallel, cut[0]) + stage_params(model, parallel, cut[-1])
    assert apart.total - rank_params(model, parallel, [cut[0], cut[-1]]).total == 129280 * 7168


def test_experts_of_671b_are_most_of_it() -> None:
    model, parallel = dataclasses.replace(ModelConfig.preset("671b"), num_nextn_predict_layers=0), ParallelConfig()
    whole = stage_params(model, parallel, stages(model, parallel)[0])
    assert whole.expert == pytest.approx(653.9e9, rel=1e-3)
    assert whole.dense == pytest.approx(17.1e9, rel=5e-3)


def built(model: ModelConfig, layout: str) -> int:
    """On a rank: parameters of its part of the model, the router's bias included."""
    from modeling.build import build_model
    from training import parallel

    cfg = LAYOUTS[layout]
    parallel.init(cfg, seed=0)
    first, last = (parallel.rank() == 0, parallel.rank() == 1) if cfg.pipeline == 2 else (True, True)
    module = build_model(model, pre_process=first, post_process=last, tp=cfg.tensor, pp=cfg.pipeline, ep=cfg.expert)
    biases = [buffer for name, buffer in module.named_buffers() if name.endswith("expert_bias")]
    return sum(tensor.numel() for tensor in [*module.parameters(), *biases])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [FOUR, DIRECT], ids=["V3", "V2-Lite"])
def test_a_rank_holds_what_megatron_builds_for_it(model: ModelConfig, layout: str) -> None:
    cfg = LAYOUTS[layout]
    if cfg.pipeline == 2:
        cfg = dataclasses.replace(cfg, pipeline_layout=f"Ett|tt{'m' * model.num_nextn_predict_layers}L")
    cut = stages(model, cfg)
    counts = [rank_params(model, cfg, cut[rank :: cfg.pipeline]).total for rank in range(cfg.pipeline)]
    if cfg.tensor == 2:
        # Transformer Engine's modules, which clusters run, repeat the down-projections; the local ones here cut them.
        down = model.hidden_size * ((model.q_lora_rank or 0) + model.kv_lora_rank + model.qk_rope_head_dim)
        counts = [counts[0] - (model.num_hidden_layers + model.num_nextn_predict_layers) * down // 2]
    assert gloo.run(built, model, layout) == (counts if cfg.pipeline == 2 else counts * 2)
