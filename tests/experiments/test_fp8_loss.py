"""FP8 against full precision: the figures made of losses, and the whole experiment in a few steps."""

import json

import pytest

from experiments import fp8_loss
from infra.errors import ConfigError


def test_relative_differences_by_hand():
    reference = {"train": [4.0] * 10 + [2.0] * 10, "eval": 2.0}
    fp8 = {"train": [4.0] * 18 + [2.01, 2.03], "eval": 2.004}
    rounding = {"train": [4.0] * 10 + [2.0] * 10, "eval": 1.999}
    losses = {("reference", 0): reference, ("rounding", 0): rounding, ("fp8", 0): fp8}
    losses |= {("reference", 1): reference, ("rounding", 1): rounding, ("fp8", 1): fp8 | {"eval": 2.02}}
    result = fp8_loss.summary(losses)
    row = result["by_seed"][0]
    assert row["fp8"]["eval"] == pytest.approx(0.002) and row["fp8"]["train"] == pytest.approx(0.01)
    assert row["fp8"]["windows"][:5] == [0.0] * 5 and row["fp8"]["windows"][5] == pytest.approx(1.0)
    assert row["rounding"]["eval"] == pytest.approx(-0.0005)
    assert result["relative"]["fp8"]["eval"] == pytest.approx({"mean": 0.006, "least": 0.002, "most": 0.01})
    assert result["within_paper"] == {"seeds": 1, "of": 2}


def test_of_a_step_done_twice_the_later_loss_counts(tmp_path):
    lines = [
        {"step": 1, "metrics": {"train/loss": 3.0}},
        {"step": 2, "metrics": {"train/loss": 9.0}},
        {"step": 2, "metrics": {"train/loss": 2.0, "eval/loss": 2.5}},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert fp8_loss.read_losses(tmp_path / "m.jsonl") == {"train": [3.0, 2.0], "eval": 2.5}


def test_a_number_of_seeds_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="seeds=none"):
        fp8_loss.main(["seeds=none"])


def test_the_whole_experiment_in_a_few_steps(tmp_path):
    given = ["pretrain.tokens=1500", "pretrain.batch_tokens=500", "pretrain.tokenizer_documents=60"]
    given += ["pretrain.tokenizer_vocab=300", "pretrain.evaluate_documents=4", "model.hidden_size=64"]
    given += ["model.max_position_embeddings=1024", "model.intermediate_size=96"]
    out = tmp_path / "loss.json"
    fp8_loss.main(["seeds=1", f"out={out}", f"run.dir={tmp_path}/runs", *given])
    result = json.loads(out.read_text())
    (row,) = result["by_seed"]
    assert 0 < abs(row["fp8"]["train"]) < 0.05 and abs(row["rounding"]["train"]) < abs(row["fp8"]["train"])
    assert result["config"]["model"]["fp8"] == "emulated" and "machine" in result
