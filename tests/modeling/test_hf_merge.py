"""Model merging: each tensor is the average, exactly; what cannot be averaged is refused before anything is written."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import CheckpointError
from modeling import hf, hf_merge
from modeling.build import build_model
from modeling.config import DType
from modeling.tokenizer import Tokenizer
from tests.modeling.test_hf import built, equal
from tests.training.tiny import model_config

NETWORKS = {}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of one shape with all tensors different; the second is cut into shards."""
    root = tmp_path_factory.mktemp("merge")
    tokenizer = Tokenizer.train(["a"], 262)
    for seed, name in enumerate(("long", "short")):
        NETWORKS[name] = built(model_config(), seed=seed)
        hf.save_pretrained(NETWORKS[name], model_config(), root / name, 40_000 if seed else 2**30)
        tokenizer.save(root / name)
    return root


def tensors(folder):
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_every_tensor_is_the_average(folders, tmp_path, share):
    assert len(list((folders / "short").glob("*.safetensors"))) > 2
    assert hf_merge.merge(folders / "long", folders / "short", tmp_path / "out", share) == model_config()
    long, short, merged = tensors(folders / "long"), tensors(folders / "short"), tensors(tmp_path / "out")
    assert long.keys() == short.keys() == merged.keys() and any("e_score_correction_bias" in name for name in merged)
    for name, tensor in merged.items():
        expected = share * long[name] + (1 - share) * short[name]
        torch.testing.assert_close(tensor, expected, rtol=0 if share == 0.5 else 1e-6, atol=0 if share == 0.5 else 1e-7)
        assert not torch.equal(tensor, long[name])
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (folders / "long" / "tokenizer.json").read_text()


@pytest.mark.parametrize("share, name", [(1.0, "long"), (0.0, "short")])
def test_all_of_one_model_is_that_model(folders, tmp_path, share, name):
    hf_merge.merge(folders / "long", folders / "short", tmp_path / "out", share)
    network = build_model(model_config())
    hf.load_pretrained(network, model_config(), tmp_path / "out")
    equal(network, NETWORKS[name])


def test_sums_of_bf16_weights_are_rounded_once(tmp_path):
    cfg = dataclasses.replace(model_config(), dtype=DType.bf16)
    for seed in (0, 1):
        hf.save_pretrained(built(cfg, seed=seed).bfloat16(), cfg, tmp_path / str(seed))
    hf_merge.merge(tmp_path / "0", tmp_path / "1", tmp_path / "out", 0.3)
    one, two, merged = (tensors(tmp_path / name) for name in ("0", "1", "out"))
    name = "lm_head.weight"
    exact = 0.3 * one[name].double() + 0.7 * two[name].double()
    assert merged[name].dtype == torch.bfloat16
    assert ((merged[name].double() - exact).abs() <= exact.abs() * 2**-8).all()


def test_what_cannot_be_averaged_is_refused(folders, tmp_path):
    other = model_config(hidden_size=64)
    hf.save_pretrained(built(other, seed=0), other, tmp_path / "wide")
    with pytest.raises(CheckpointError, match="hidden_size=64"):
        hf_merge.merge(folders / "long", tmp_path / "wide", tmp_path / "out")
    hf.save_pretrained(NETWORKS["short"], model_config(), tmp_path / "words")
    Tokenizer.train(["a a a b"] * 9, 264).save(tmp_path / "words")
    with pytest.raises(CheckpointError, match="another vocabulary"):
        hf_merge.merge(folders / "long", tmp_path / "words", tmp_path / "out")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(CheckpointError, match="of another shape"):
        hf_merge.merge(tmp_path / "wide", tmp_path / "wide", tmp_path / "out")
    assert not (tmp_path / "out").exists()
