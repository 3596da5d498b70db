"""Hugging Face folders: bit-exact round trips, experts over ranks, and every way in which a folder can be wrong."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import CheckpointError
from modeling import hf
from modeling.build import build_model
from modeling.config import DType, Experts, ModelConfig, ScoringFunc
from tests import gloo
from tests.modeling import families
from tests.modeling.families import shape
from tests.training.tiny import model_config, rows
from training import parallel
from training.config import OptimizerConfig, ParallelConfig
from training.state import build_state
from training.step import token_logprobs


def built(cfg: ModelConfig, seed: int, *, noisy: bool = True, layout: ParallelConfig | None = None) -> nn.Module:
    """A network with values of its own in every tensor, the router's bias and the norms included."""
    layout = layout or ParallelConfig()
    parallel.init(layout, seed)
    module = build_model(cfg, ep=layout.expert)
    if noisy:
        with torch.no_grad():
            for tensor in weights(module).values():
                tensor += 0.1 * torch.randn(tensor.shape)
    return module


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if torch.is_tensor(tensor)}


def equal(left: nn.Module, right: nn.Module) -> None:
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with weights of model_config(), written once. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    hf.save_pretrained(built(model_config(), seed=0), model_config(), folder)
    return folder


@pytest.fixture
def damaged(saved, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def rewrite(folder: Path, change) -> None:
    """Let change(tensors) edit the folder's weights in place."""
    tensors = load_file(folder / hf.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})


def reconfigure(folder: Path, **changes) -> None:
    settings = json.loads((folder / hf.CONFIG).read_text()) | changes
    (folder / hf.CONFIG).write_text(json.dumps(settings))


def load_error(folder: Path, cfg: ModelConfig | None = None) -> str:
    """The message of loading the folder, after a check that no weight has changed."""
    cfg = cfg or model_config()
    module = built(cfg, seed=1)
    before = {name: tensor.clone() for name, tensor in weights(module).items()}
    with pytest.raises(CheckpointError) as caught:
        hf.load_pretrained(module, cfg, folder)
    for name, tensor in weights(module).items():
        assert torch.equal(tensor, before[name])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "changes",
    [
        dict(experts=Experts.batched),
        dict(experts=Experts.sequential),
        dict(n_shared_experts=0, num_hidden_layers=3, first_k_dense_replace=2, num_nextn_predict_layers=2),
        dict(first_k_dense_replace=0, scoring_func=ScoringFunc.softmax, num_nextn_predict_layers=0),
        dict(dtype=DType.bf16),
    ],
    ids=["batched", "sequential", "dense_deep_mtp", "softmax", "bf16"],
)
def test_round_trip_keeps_every_bit(changes, tmp_path):
    cfg = model_config(**changes)
    module = built(cfg, seed=0)
    hf.save_pretrained(module, cfg, tmp_path / "model")
    read = hf.config_from(tmp_path / "model")
    assert read.to_hf_dict() == cfg.to_hf_dict()
    other = built(cfg, seed=1)
    hf.load_pretrained(other, cfg, tmp_path / "model")
    equal(module, other)
    assert sum(t.numel() for t in load_file(tmp_path / "model" / hf.WEIGHTS).values()) == cfg.num_params(mtp=True)


def test_names_are_those_of_the_released_model(saved):
    # Layer 0 is dense, layer 1 has 4 experts, layer 2 is the MTP module.
    attention = [
        f"self_attn.{name}.weight"
        for name in "q_a_proj q_a_layernorm q_b_proj kv_a_proj_with_mqa kv_a_layernorm kv_b_proj o_proj".split()
    ]
    norms = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    projections = [f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")]
    experts = [f"mlp.{e}.{p}" for e in ["shared_experts", *(f"experts.{i}" for i in range(4))] for p in projections]
    moe = [*attention, *norms, *experts, "mlp.gate.weight", "mlp.gate.e_score_correction_bias"]
    mtp = ["enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"]
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.layers.0.{name}" for name in [*attention, *norms, *(f"mlp.{p}" for p in projections)]}
    expected |= {f"model.layers.1.{name}" for name in moe} | {f"model.layers.2.{name}" for name in [*moe, *mtp]}
    with safe_open(saved / hf.WEIGHTS, framework="pt") as file:
        assert set(file.keys()) == expected
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("save, load", [("batched", "sequential"), ("sequential", "batched")])
def test_either_expert_module_reads_what_the_other_wrote(save, load, tmp_path):
    cfg = model_config(experts=Experts(save))
    module = built(cfg, seed=0)
    hf.save_pretrained(module, cfg, tmp_path / "model")
    cfg = model_config(experts=Experts(load))
    other = built(cfg, seed=1)
    hf.load_pretrained(other, cfg, tmp_path / "model")
    ids = torch.arange(32).view(2, 16)
    with torch.no_grad():
        losses = [m.eval()(ids, torch.arange(16).expand(2, 16), None, labels=ids) for m in (module, other)]
    assert (losses[0] - losses[1]).abs().max() < 1e-5


def test_large_models_are_cut_into_shards_with_an_index(saved, tmp_path):
    cfg = model_config()
    module = built(cfg, seed=0)
    hf.save_pretrained(module, cfg, tmp_path / "model", max_shard_bytes=40_000)
    index = json.loads((tmp_path / "model" / hf.INDEX).read_text())
    whole = load_file(saved / hf.WEIGHTS)
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    contents = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == contents and contents.keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 40_000 for file in files)
    other = built(cfg, seed=1)
    hf.load_pretrained(other, cfg, tmp_path / "model")
    equal(module, other)


def test_router_bias_stays_fp32_in_a_bf16_model(tmp_path):
    cfg = model_config(dtype=DType.bf16)
    hf.save_pretrained(built(cfg, seed=0), cfg, tmp_path / "model")
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "model" / hf.WEIGHTS).items()}
    fp32 = {name for name, dtype in dtypes.items() if dtype is torch.float32}
    assert fp32 == {name for name in dtypes if name.endswith("e_score_correction_bias")} and len(fp32) == 2


def test_bf16_files_fill_an_fp32_model_exactly(damaged):
    kept = {}

    def halve(tensors):
        for name in tensors:
            kept[name] = tensors[name] = tensors[name].bfloat16()

    rewrite(damaged, halve)
    module = built(model_config(), seed=1)
    hf.load_pretrained(module, model_config(), damaged)
    assert torch.equal(weights(module)["output_layer.weight"], kept["lm_head.weight"].float())


def test_mtp_copies_of_embedding_and_head_are_passed_over(damaged, saved):
    def add(tensors):
        tensors["model.layers.2.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.2.shared_head.head.weight"] = tensors["lm_head.weight"].clone()

    rewrite(damaged, add)
    modules = [built(model_config(), seed=seed) for seed in (1, 2)]
    hf.load_pretrained(modules[0], model_config(), damaged)
    hf.load_pretrained(modules[1], model_config(), saved)
    equal(*modules)


def test_mtp_module_is_left_out_where_the_config_says_so(saved):
    cfg = model_config(num_nextn_predict_layers=0)
    module, whole = built(cfg, seed=1), built(model_config(), seed=2)
    hf.load_pretrained(module, cfg, saved)
    hf.load_pretrained(whole, model_config(), saved)
    for name, tensor in weights(module).items():
        assert torch.equal(tensor, weights(whole)[name])


def _load_on_ranks(folder: str, experts: str) -> dict[str, Tensor]:
    cfg = model_config(experts=Experts(experts))
    module = built(cfg, seed=1, noisy=False, layout=ParallelConfig(expert=2))
    hf.load_pretrained(module, cfg, Path(folder))
    with pytest.raises(CheckpointError, match=r"parallel\.expert=2.*set parallel\.expert=1"):
        hf.save_pretrained(module, cfg, Path(folder) / "split")
    return {name: tensor.numpy() for name, tensor in weights(module).items()}


@pytest.mark.parametrize("experts", ["batched", "sequential"])
def test_ranks_take_their_own_experts(experts, saved):
    cfg = model_config(experts=Experts.batched)
    whole = built(cfg, seed=1)
    hf.load_pretrained(whole, cfg, saved)
    ranks = gloo.run(_load_on_ranks, str(saved), experts, ranks=2)
    for rank, own in enumerate(ranks):
        for name, expected in weights(whole).items():
            if ".mlp.experts.weight" not in name:
                assert torch.equal(torch.from_numpy(own[name]), expected), name
                continue
            expected = expected[2 * rank : 2 * rank + 2]
            if experts == "sequential":
                stem, last = name.rsplit(".", 1)
                names = [f"{stem}.local_experts.{e}.linear_fc{last[-1]}.weight" for e in range(2)]
                found = torch.stack([torch.from_numpy(own[n]) for n in names])
            else:
                found = torch.from_numpy(own[name])
            assert torch.equal(found, expected), name


def test_missing_extra_and_misshapen_tensors_are_listed(damaged):
    def damage(tensors):
        for name in [n for n in tensors if n.startswith("model.layers.1.mlp.experts.2.")]:
            del tensors[name]
        del tensors["model.layers.0.self_attn.o_proj.weight"]
        tensors["model.layers.1.mlp.experts.4.up_proj.weight"] = torch.zeros(16, 32)
        tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(1)
        tensors["lm_head.weight"] = torch.zeros(60, 32)

    rewrite(damaged, damage)
    message = load_error(damaged)
    assert "4 missing: model.layers.0.self_attn.o_proj.weight, model.layers.1.mlp.experts.2." in message
    assert "and 1 more" in message
    assert "2 left over: model.layers.0.self_attn.q_proj.weight, model.layers.1.mlp.experts.4.up_proj.weight" in message
    assert "1 of another shape: lm_head.weight (60, 32) (here (64, 32))" in message


def test_a_folder_of_another_shape_or_routing_is_refused(saved):
    cfg = model_config(hidden_size=64, routed_scaling_factor=2.5, max_position_embeddings=32, rope_factor=4.0)
    message = load_error(saved, cfg)
    assert "hidden_size=32 (here 64), routed_scaling_factor=1.0 (here 2.5); set the same under model" in message


def test_a_folder_without_mtp_says_how_to_do_without(damaged):
    rewrite(damaged, lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("model.layers.2.")])
    assert "set model.num_nextn_predict_layers=0" in load_error(damaged)


@pytest.mark.parametrize("scale", [None, torch.ones(1), torch.ones(2, 1), torch.ones(1, 1).bfloat16()])
def test_quantised_weights_without_scales_of_their_blocks_are_refused(scale, damaged):
    def quantise(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        if scale is not None:
            tensors[f"{name}_scale_inv"] = scale

    rewrite(damaged, quantise)
    message = load_error(damaged)
    assert "1 quantised without scales of their blocks: model.layers.0.mlp.up_proj.weight F8_E4M3" in message
    assert "BF16" in message


def test_damaged_files_are_named(damaged):
    content = (damaged / hf.WEIGHTS).read_bytes()
    (damaged / hf.WEIGHTS).write_bytes(content[:1000])
    assert f"{damaged / hf.WEIGHTS}: cannot be read" in load_error(damaged)
    (damaged / hf.WEIGHTS).write_bytes(content[:-1000])
    assert f"{damaged / hf.WEIGHTS}: cannot be read" in load_error(damaged)
    (damaged / hf.WEIGHTS).rename(damaged / "pytorch_model.bin")
    assert "model.safetensors not there" in load_error(damaged) and "run code" in load_error(damaged)


def test_an_index_names_files_of_its_folder_only(damaged, saved):
    for weight_map in ({"lm_head.weight": f"../../{saved.parent.name}/model/{hf.WEIGHTS}"}, {"a": 1}, ["a"], None):
        (damaged / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))
        assert "no weight_map of file names" in load_error(damaged)
    (damaged / hf.INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))
    assert "model-00001-of-00002.safetensors not there" in load_error(damaged)


@pytest.mark.parametrize(
    "settings, problem",
    [
        (dict(model_type="gemma3"), "model_type=gemma3: is no family that is known here; give one of deepseek_v3, "),
        (dict(hidden_act="gelu", attention_bias=True), "attention_bias=True, hidden_act=gelu: cannot be built"),
        (dict(rope_scaling={"type": "linear", "factor": 2.0}), "rope_type=linear: cannot be built"),
        (dict(norm_topk_prob=False), "norm_topk_prob=False: cannot be built"),
        (dict(scoring_func="tanh"), "scoring_func=tanh: cannot be built"),
        (dict(quantization_config={"quant_method": "awq", "bits": 4}), "quantization_quant_method=awq"),
        (dict(rope_scaling="yarn"), "config.json"),
        (dict(hidden_size="wide"), "config.json"),
        (dict(num_experts_per_tok=9), "num_experts_per_tok=9: there are 4 experts"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(settings, problem, damaged):
    reconfigure(damaged, **settings)
    with pytest.raises(CheckpointError) as caught:
        hf.config_from(damaged)
    assert problem in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "[1]", '{"model_type": '])
def test_an_unreadable_config_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / hf.CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match="config.json: .*give a Hugging Face folder"):
        hf.config_from(tmp_path)


@pytest.mark.parametrize("key", ["tensor", "pipeline"])
def test_a_split_model_is_not_saved(key, tmp_path):
    cfg = model_config()
    module = built(cfg, seed=0)
    setattr(module.config, f"{key}_model_parallel_size", 2)
    with pytest.raises(CheckpointError, match=rf"parallel\.{key}=2.*r1 export.*set parallel\.{key}=1"):
        hf.save_pretrained(module, cfg, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def _losses_of_split_model(folder: str, layout: dict[str, int]) -> list[list[float]] | None:
    """Loss of each token, from the last pipeline stage's ranks, of a folder read by ranks of this layout."""
    cfg = hf.config_from(Path(folder))
    parallel.init(ParallelConfig(**layout), 1)
    state = build_state(cfg, OptimizerConfig(), ParallelConfig(**layout), stage="pretrain", init_from=Path(folder))
    batch = rows(seed=3, batch=2)
    logprobs = token_logprobs(state.model, [batch])
    return logprobs[0].tolist()


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3", "llama3_scaled"])
def test_ranks_of_any_layout_take_their_part(family, tmp_path):
    cfg = shape(family, num_hidden_layers=4)
    hf.save_pretrained(families.built(cfg, seed=0), cfg, tmp_path / "model")
    whole = torch.tensor(_losses_of_split_model(str(tmp_path / "model"), {}))
    for layout in (dict(tensor=2), dict(pipeline=2)):
        for rank in gloo.run(_losses_of_split_model, str(tmp_path / "model"), layout, ranks=2):
            torch.testing.assert_close(torch.tensor(rank), whole, rtol=0, atol=1e-4)


def test_saving_replaces_a_model_but_nothing_else(tmp_path):
    cfg = model_config()
    module = built(cfg, seed=0)
    folder = tmp_path / "model"
    hf.save_pretrained(module, cfg, folder, max_shard_bytes=40_000)
    hf.save_pretrained(module, cfg, folder)
    assert sorted(p.name for p in folder.iterdir()) == [hf.CONFIG, hf.WEIGHTS]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="something else than a model"):
        hf.save_pretrained(module, cfg, tmp_path)
    with pytest.raises(CheckpointError, match="something else than a model"):
        hf.save_pretrained(module, cfg, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_write_that_fails_leaves_the_model_before_it(damaged):
    before = (damaged / hf.WEIGHTS).read_bytes()
    module = built(model_config(), seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=f"{damaged}: cannot write the model"):
            hf.save_pretrained(module, model_config(), damaged)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (damaged / hf.WEIGHTS).read_bytes() == before
    assert [p.name for p in damaged.parent.iterdir()] == ["model"]
