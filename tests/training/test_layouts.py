"""Layouts over gloo ranks equal one rank: losses, gradients, expert bias, log-probabilities, and checkpoints both ways.

Names of weights differ between layouts (stages count their layers from 0), so weights are compared as one rank reads
them from the layout's checkpoint. With a large eps AdamW moves by the gradient itself, not by its sign.
"""

from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError
from modeling.build import megatron_config
from modeling.config import DType, Family
from tests import gloo
from tests.training import tiny
from training import checkpoint, parallel
from training.config import OptimizerName
from training.data.packing import by_length_batches, packed_batches
from training.losses import next_token_loss
from training.schedules import Now
from training.step import token_logprobs, train_step

OPTIMIZER = {"lr": 0.05, "eps": 0.01}
MODEL = {"aux_loss_alpha": 0.1, "num_attention_heads": 4}
# Sums in another order, in FP32; MTP's second next token and the balance loss included.
TOLERANCE = 2e-5


def _rows(step: int, packed: bool, max_tokens: int = 40) -> list:
    """This rank's share of a step's documents of many lengths, in several micro-batches."""
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(3, 18, (12,), generator=generator).tolist()
    documents = [torch.randint(1, tiny.VOCAB, (n,), generator=generator).tolist() for n in lengths]
    share = dict(rank=parallel.data_rank(), world=parallel.data_size(), max_tokens=max_tokens, pad_id=0)
    return packed_batches(documents, row_tokens=20, **share) if packed else by_length_batches(documents, **share)


def _state(seed: int, layout: dict, optimizer: dict | None = None, model: dict | None = None):
    return tiny.state(seed, optimizer=OPTIMIZER | (optimizer or {}), layout=layout, model=MODEL | (model or {}))


def _train(state, steps: range) -> list[dict[str, float]]:
    """MTP in every second step only; the bias moves in each."""
    metrics = []
    for step in steps:
        now = Now(mtp_lambda=0.3 * (step % 2), bias_speed=0.01)
        metrics.append(train_step(state, _rows(step, packed=step % 2 == 1), next_token_loss, now))
        state.step += 1
    return metrics


def _logprobs(state) -> float:
    """Sum of the weighted log-probabilities over all ranks' rows."""
    rows = _rows(9, packed=False)
    own = sum(float((b.loss_weights * lp).sum()) for b, lp in zip(rows, token_logprobs(state.model, rows), strict=True))
    return sum(parallel.gather_objects(own)) / (parallel.world() // parallel.data_size())


def _in_layout(folder: str, layout: dict, optimizer: dict, model: dict) -> dict:
    """Saved as initialised; then two steps, saved again; then one more, which a resumed state does just so."""
    state = _state(0, layout, optimizer, model)
    for router in state.routers:
        router.expert_bias += 0.1 * torch.arange(4)
    checkpoint.save(state, f"{folder}/before", config={})
    metrics = _train(state, range(2))
    checkpoint.save(state, f"{folder}/after", config={})
    metrics += _train(state, range(2, 3))
    resumed = _state(3, layout, optimizer, model)
    checkpoint.load_latest(resumed, f"{folder}/after")
    assert _train(resumed, range(2, 3)) == metrics[2:]
    return {"metrics": metrics, "logprobs": _logprobs(state)}


def _assert_equals_one_rank(
    folder: Path, ranks: int, layout: dict, *, optimizer: dict | None = None, tolerance: float = TOLERANCE, **model
) -> None:
    optimizer = optimizer or {}
    several = gloo.run(_in_layout, str(folder), layout, optimizer, model, ranks=ranks)
    alone = {key: value for key, value in layout.items() if key == "zero1"}
    one = _state(1, alone, optimizer, model)
    checkpoint.load_latest(one, folder / "before")
    metrics = _train(one, range(2))
    weights = tiny.weights(one)
    metrics += _train(one, range(2, 3))
    if model.get("dtype") is DType.bf16:  # a rounding may send a token to another expert, which counts whole tokens
        for step in [step for rank in several for step in rank["metrics"]] + metrics:
            step.pop("moe/maxvio")
    for rank in several:
        for a, b in zip(rank["metrics"], metrics, strict=True):
            assert a == pytest.approx(b, rel=tolerance)
        assert rank["logprobs"] == pytest.approx(_logprobs(one), rel=tolerance)

    read = _state(2, alone, optimizer, model)
    checkpoint.load_latest(read, folder / "after")
    tiny.close(tiny.weights(read), weights, tolerance)
    assert read.step == 2
    (last,) = _train(read, range(2, 3))
    assert {key: last[key] for key in metrics[2]} == pytest.approx(metrics[2], rel=tolerance)


@pytest.mark.parametrize(
    "layout",
    [{"zero1": True}, {"expert": 2}, {"tensor": 2}, {"pipeline": 2}, {"tensor": 2, "expert": 2}, {"context": 2}],
    ids=lambda layout: "-".join(layout),
)
def test_two_ranks_equal_one(layout, tmp_path):
    _assert_equals_one_rank(tmp_path, 2, layout)


@pytest.mark.parametrize("layout", [{"expert": 2}, {"pipeline": 2}], ids=lambda layout: "-".join(layout))
def test_two_ranks_equal_one_with_muon(layout, tmp_path):
    # BF16 inside, where the processor has it: the last bit of a gradient can flip one there.
    _assert_equals_one_rank(tmp_path, 2, layout, optimizer={"name": OptimizerName.muon}, tolerance=1e-2)


@pytest.mark.parametrize("zero1", [False, True])
def test_two_ranks_equal_one_in_bf16(zero1, tmp_path):
    layout = {"expert": 2, "zero1": True} if zero1 else {"pipeline": 2}
    _assert_equals_one_rank(tmp_path, 2, layout, dtype=DType.bf16, tolerance=1e-2)


@pytest.mark.parametrize(
    "model",
    [
        {"num_nextn_predict_layers": 2, "rope_factor": 4.0, "rope_original_max_position_embeddings": 8},
        {"family": Family.qwen3, "num_key_value_heads": 2},
    ],
    ids=["two-depths", "dense"],
)
def test_rows_that_two_ranks_share_equal_whole_ones(model, tmp_path):
    _assert_equals_one_rank(tmp_path, 2, {"context": 2}, **model)


@pytest.mark.parametrize("layout", [{"expert": 2, "recompute": ["mla_up_proj", "layernorm", "moe"]},
                                    {"pipeline": 2, "recompute": ["full"]}], ids=["expert", "pipeline"])  # fmt: skip
def test_two_ranks_that_recompute_equal_one_that_keeps_all(layout, tmp_path):
    _assert_equals_one_rank(tmp_path, 2, layout)


def test_two_stages_on_each_rank_equal_one(tmp_path):
    layout = {"pipeline": 2, "virtual_pipeline": 2, "pipeline_layout": "Et|t|t|mL"}
    _assert_equals_one_rank(tmp_path, 2, layout, num_hidden_layers=3)


@pytest.mark.parametrize(
    "layout",
    [
        {"tensor": 2, "pipeline": 2},
        {"expert": 2, "pipeline": 2, "zero1": True},
        {"expert": 2, "pipeline": 2, "virtual_pipeline": 2},
        {"context": 2, "tensor": 2},
        {"context": 2, "pipeline": 2},
        {"context": 2, "expert": 4, "zero1": True},
    ],
    ids=lambda layout: "-".join(layout),
)
def test_four_ranks_equal_one(layout, tmp_path):
    _assert_equals_one_rank(tmp_path, 4, layout, num_hidden_layers=4)


def _continued(folder: str, layout: dict) -> list[dict[str, float]]:
    state = _state(1, layout)
    checkpoint.load_latest(state, folder)
    return _train(state, range(2, 3))


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2, "expert": 1}], ids=lambda layout: next(iter(layout)))
def test_a_checkpoint_of_one_rank_goes_on_in_parts(layout, tmp_path):
    one = _state(0, {})
    _train(one, range(2))
    checkpoint.save(one, tmp_path, config={})
    expected = _train(one, range(2, 3))
    for metrics in gloo.run(_continued, str(tmp_path), layout):
        assert metrics == [pytest.approx(expected[0], rel=TOLERANCE)]


@pytest.mark.parametrize(
    ("model", "sizes", "said"),
    [
        ({}, {"tp": 3}, "parallel.tensor=3: does not divide model.num_attention_heads=4; set 2 or 4"),
        ({"num_attention_heads": 3}, {"tp": 3}, "parallel.tensor=3: does not divide model.vocab_size=64; set 2 or 4"),
        ({}, {"ep": 3}, "parallel.expert=3: does not divide model.n_routed_experts=4; set 2 or 4"),
        ({}, {"ep": 8}, "parallel.expert=8: does not divide model.n_routed_experts=4; set 4"),
        ({}, {"pp": 3}, "parallel.pipeline=3: more stages than layers; set 2 or less"),
        (
            {"rope_original_max_position_embeddings": 12},
            {"cp": 4},
            "parallel.context=4: does not divide model.rope_original_max_position_embeddings=12 into 2 parts for each; "
            "set 3 or 6",
        ),
    ],
)
def test_a_layout_that_does_not_fit_names_the_numbers_and_the_nearest_legal_ones(model, sizes, said):
    with pytest.raises(ConfigError) as refused:
        megatron_config(tiny.model_config(**MODEL | model), **sizes)
    assert str(refused.value) == said
