"""`r1 export`: checkpoints of every layout become the Hugging Face folder they started from, bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import CheckpointError
from modeling import hf
from modeling.config import DType
from modeling.tokenizer import Tokenizer
from tests import gloo
from tests.modeling.families import built, qwen_tokenizer, shape
from training import checkpoint, parallel
from training.config import OptimizerConfig, ParallelConfig
from training.export import export_checkpoint
from training.state import build_state


def _train_nothing(folder: str, run: str, layout: dict[str, int]) -> None:
    """A checkpoint, in this layout, of the weights in folder."""
    cfg = hf.config_from(Path(folder))
    parallel_cfg = ParallelConfig(**layout)
    parallel.init(parallel_cfg, 1)
    state = build_state(cfg, OptimizerConfig(), parallel_cfg, stage="pretrain", init_from=Path(folder))
    checkpoint.save(state, Path(run), {})


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


LAYOUTS = {
    "plain": ("deepseek_v3", {}),
    "plain_dense": ("qwen2_tied", {}),
    "experts": ("deepseek_v3", dict(expert=2)),
    "stages": ("deepseek_v3", dict(pipeline=2)),
    "split_dense": ("qwen3", dict(tensor=2)),
    "split_tied_stages": ("llama3_scaled", dict(pipeline=2)),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_checkpoint_of_any_layout_is_exported_bit_for_bit(case, tmp_path):
    family, layout = LAYOUTS[case]
    cfg = shape(family, num_hidden_layers=4, dtype=DType.bf16)
    hf.save_pretrained(built(cfg, seed=0), cfg, tmp_path / "start")
    tokenizer = qwen_tokenizer(tmp_path / "run")
    gloo.run(_train_nothing, str(tmp_path / "start"), str(tmp_path / "run"), layout, ranks=2 if layout else 1)
    found = export_checkpoint(tmp_path / "run", tmp_path / "out", max_shard_bytes=30_000)
    assert found == cfg and hf.config_from(tmp_path / "out") == cfg
    start, out = _stored(tmp_path / "start"), _stored(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert start.keys() == out.keys()
    for name, tensor in start.items():
        assert out[name].dtype == tensor.dtype and torch.equal(out[name], tensor), name
    assert Tokenizer.load(tmp_path / "out").encode("Make 18") == tokenizer.encode("Make 18")
    assert checkpoint.resolve(tmp_path / "out") == tmp_path / "out"


def test_fp8_and_other_types_on_request(tmp_path):
    cfg = shape("moonlight")
    hf.save_pretrained(built(cfg, seed=0), cfg, tmp_path / "start")
    qwen_tokenizer(tmp_path / "start")
    export_checkpoint(tmp_path / "start", tmp_path / "fp8", dtype=DType.bf16, fp8=True)
    start, out = _stored(tmp_path / "start"), _stored(tmp_path / "fp8")
    assert out["model.layers.0.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
    assert out["model.layers.0.mlp.up_proj.weight_scale_inv"].shape == (1, 1)
    assert out["lm_head.weight"].dtype == torch.bfloat16
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert out[name].dtype == torch.float32 and torch.equal(out[name], start[name])
    other = built(cfg, seed=1)
    hf.load_pretrained(other, cfg, tmp_path / "fp8")
    for slot in hf._slots(other, cfg):
        step = start[slot.name].abs().max() / 16
        assert (slot.content() - start[slot.name]).abs().max() <= step, slot.name


def test_nothing_to_export_says_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights; give a Hugging Face folder"):
        export_checkpoint(tmp_path, tmp_path / "out")
