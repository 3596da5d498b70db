"""Layouts: the same strings mean what they mean to Megatron, and what is illegal is refused with the nearest legal."""

import dataclasses

import pytest
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

from infra.errors import ConfigError
from modeling.config import ModelConfig
from modeling.presets import PRESETS
from training.config import ParallelConfig
from training.layout import (
    Stage,
    check_batch,
    check_model,
    check_world,
    data_size,
    even_layout,
    expert_data_size,
    near,
    stages,
    written_out,
)

V3 = ModelConfig.preset("671b")
TINY = ModelConfig()
LAYOUTS = [
    (8, 4, "Et|(tt|)*30mL"),
    (2, 8, "Et*4|(t*4|)*14tmL"),
    (16, 2, "Et*3|(tt|)*29,m|L"),
    (8, 4, "Et*3|(tt|)*29m|L"),
    (16, 4, "Et|(t|)*60|mL"),
]


@pytest.mark.parametrize(("pipeline", "virtual", "text"), LAYOUTS)
def test_a_layout_string_is_read_as_megatron_reads_it(pipeline: int, virtual: int, text: str) -> None:
    theirs = [[kind.name[0] for kind in row] for row in PipelineParallelLayerLayout.parse_str_to_list(text)]
    letters = {"E": "e", "t": "d", "m": "m", "L": "l"}
    assert [[letters[letter] for letter in row] for row in written_out(text)] == theirs
    if len(theirs) == pipeline * virtual:
        PipelineParallelLayerLayout(text, pipeline).validate_layer_layout(61, 1)
        parallel = ParallelConfig(pipeline=pipeline, virtual_pipeline=virtual, pipeline_layout=text)
        cut = stages(V3, parallel)
        assert [layer for stage in cut for layer in stage.layers] == list(range(61))
        assert (sum(s.embedding for s in cut), sum(s.mtp for s in cut), sum(s.loss for s in cut)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("pipeline", "virtual", "layers"),
    [
        # Megatron-Bridge's own table for DeepSeek-V3 (recipes/deepseek, _get_deepseek_v3_pipeline_layout).
        (4, 1, [16] * 3 + [13]),
        (8, 1, [8] * 7 + [5]),
        (4, 2, [8] * 7 + [5]),
        (16, 1, [4] * 15 + [1]),
        (8, 2, [4] * 15 + [1]),
        (4, 4, [4] * 15 + [1]),
        (8, 4, [1] + [2] * 30 + [0]),
    ],
)
def test_an_even_cut_of_deepseek_v3_is_the_published_one(pipeline: int, virtual: int, layers: list[int]) -> None:
    cut = stages(V3, ParallelConfig(pipeline=pipeline, virtual_pipeline=virtual))
    assert [len(stage.layers) for stage in cut] == layers
    assert cut[0].embedding and cut[-1].loss and cut[-1].mtp == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_even_cut_is_legal_for_megatron(preset: str) -> None:
    model = ModelConfig.preset(preset)
    for pipeline in range(1, model.num_hidden_layers + 1):
        text = even_layout(model, ParallelConfig(pipeline=pipeline))
        layout = PipelineParallelLayerLayout(text, pipeline)
        layout.validate_layer_layout(model.num_hidden_layers, model.num_nextn_predict_layers or None)


def test_a_stage_knows_its_dense_layers() -> None:
    stage = Stage(layers=range(1, 6))
    assert (stage.dense(V3), stage.moe(V3)) == (2, 3)
    assert (Stage(layers=range(4, 6)).dense(V3), Stage(layers=range(0)).dense(V3)) == (0, 0)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        (dict(tensor=3), ["parallel.tensor=3", "128 heads", "set 2 or 4"]),
        (dict(tensor=256), ["parallel.tensor=256", "128 heads", "set 128"]),
        (dict(expert=48), ["parallel.expert=48", "256 experts", "set 32 or 64"]),
        (dict(pipeline=62), ["parallel.pipeline=62", "61 layers", "set at most 61"]),
        (dict(pipeline=16, virtual_pipeline=4), ["virtual_pipeline=4", "64 stages", "61 layers", "set at most 3"]),
        (dict(pipeline=2, pipeline_layout="Ettt|tmL"), ["Ettt|tmL", "has 4 layers, the model 61"]),
        (dict(pipeline=2, pipeline_layout="Et*61mL"), ["has 1 stages", "=2"]),
        (dict(pipeline=2, pipeline_layout="Et*60|mtL"), ["out of order"]),
        (dict(pipeline=2, pipeline_layout="Et*60|tL"), ["has 0 MTP modules, the model 1"]),
        (dict(pipeline=2, pipeline_layout="Et*60|txmL"), ["'x' is no layer"]),
        (dict(pipeline=2, virtual_pipeline=2, pipeline_layout="E|t*61m||L"), ["m on a rank that continues", "last 2"]),
        (dict(pipeline=2, pipeline_layout="t*60|Etm"), ["out of order"]),
    ],
)
def test_a_layout_that_cannot_cut_deepseek_v3_is_refused(sizes: dict, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        check_model(V3, ParallelConfig(**sizes))
    assert all(part in str(refused.value) for part in parts), str(refused.value)


def test_shared_and_dense_widths_and_vocabulary_have_to_divide_by_tensor_ranks() -> None:
    many = dataclasses.replace(TINY, num_attention_heads=6, intermediate_size=256)
    with pytest.raises(
        ConfigError, match=r"parallel.tensor=3: does not divide the dense layers' width 256; set 2 or 4"
    ):
        check_model(many, ParallelConfig(tensor=3))
    with pytest.raises(ConfigError, match="vocabulary 640; set 2 or 4"):
        check_model(dataclasses.replace(many, intermediate_size=255, vocab_size=640), ParallelConfig(tensor=3))


def test_processes_have_to_fill_the_layout() -> None:
    layout = ParallelConfig(tensor=2, pipeline=8, expert=64)
    check_world(layout, 1024)
    assert (data_size(layout, 1024), expert_data_size(layout, 1024)) == (64, 2)
    with pytest.raises(ConfigError, match="cluster.gpus=1000: .*=16 does not divide it; set a multiple of 16, as 992"):
        check_world(layout, 1000, "cluster.gpus")
    with pytest.raises(ConfigError, match="parallel.expert=64: does not divide the 16 processes .*; set 16"):
        check_world(layout, 128)


def test_a_batch_has_to_make_equal_micro_batches_that_fill_an_interleaved_pipeline() -> None:
    layout = ParallelConfig(tensor=2, pipeline=8, virtual_pipeline=4, expert=64)
    check_batch(layout, 1024, 8192, 1, "plan.global_batch")
    with pytest.raises(ConfigError, match="plan.global_batch=8200: 64 data-parallel ranks .* set 8192 or 8256"):
        check_batch(layout, 1024, 8200, 1, "plan.global_batch")
    with pytest.raises(ConfigError, match="=8256: makes 129 micro-batches, .* set 8192 or 8704"):
        check_batch(layout, 1024, 8256, 1, "plan.global_batch")


def test_near_names_the_neighbours_that_exist() -> None:
    assert near(5, [1, 2, 4, 8]) == "4 or 8"
    assert near(9, [1, 2, 4, 8]) == "8"
    assert near(0, [1, 2]) == "1"


def test_virtual_stages_need_a_pipeline() -> None:
    with pytest.raises(ConfigError, match="parallel.virtual_pipeline=2: parallel.pipeline=1 has one stage; set 1"):
        ParallelConfig(virtual_pipeline=2)
