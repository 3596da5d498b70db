"""`r1 import`: a sharded folder with DeepSeek-V3's released names and FP8 scales, made here tensor by tensor."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import CheckpointError
from modeling import hf, hf_convert, hub
from modeling.config import DType
from tests import gloo
from tests.modeling.families import built, qwen_folder, qwen_tokenizer, shape
from tests.modeling.test_hf import weights

# Sizes that are no multiples of 128, so that blocks are cut at the edges.
SETTINGS = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 96, "hidden_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 136, "kv_lora_rank": 40,
    "qk_nope_head_dim": 72, "qk_rope_head_dim": 8, "v_head_dim": 66, "intermediate_size": 260,
    "first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 130, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "norm_topk_prob": True, "num_nextn_predict_layers": 1, "max_position_embeddings": 64, "rope_theta": 10000,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "torch_dtype": "bfloat16", "ep_size": 1, "bos_token_id": 0,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    },
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16, "type": "yarn",
    },
}  # fmt: skip


def released() -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> (shape, whether in FP8) as in the released index, written out by hand for SETTINGS' sizes."""
    h = 160
    attention = {
        "q_a_proj": (136, h), "q_b_proj": (2 * 80, 136), "kv_a_proj_with_mqa": (48, h), "kv_b_proj": (2 * 138, 40),
        "o_proj": (h, 132),
    }  # fmt: skip
    names = {"model.embed_tokens.weight": ((96, h), False), "model.norm.weight": ((h,), False)}
    names["lm_head.weight"] = ((96, h), False)
    for layer in range(3):
        prefix = f"model.layers.{layer}."
        names |= {f"{prefix}self_attn.{name}.weight": (size, True) for name, size in attention.items()}
        names |= {f"{prefix}self_attn.{n}_a_layernorm.weight": ((s,), False) for n, s in (("q", 136), ("kv", 40))}
        names |= {f"{prefix}{n}_layernorm.weight": ((h,), False) for n in ("input", "post_attention")}
        mlps = {"mlp": 260} if layer == 0 else {f"mlp.experts.{e}": 130 for e in range(4)} | {"mlp.shared_experts": 130}
        for mlp, inner in mlps.items():
            names |= {f"{prefix}{mlp}.{n}_proj.weight": ((inner, h), True) for n in ("gate", "up")}
            names[f"{prefix}{mlp}.down_proj.weight"] = ((h, inner), True)
        if layer:
            names[f"{prefix}mlp.gate.weight"] = ((4, h), False)
            names[f"{prefix}mlp.gate.e_score_correction_bias"] = ((4,), False)
    mtp = {"enorm": (h,), "hnorm": (h,), "eh_proj": (h, 2 * h), "shared_head.norm": (h,)}
    mtp |= {"embed_tokens": (96, h), "shared_head.head": (96, h)}
    return names | {f"model.layers.2.{name}.weight": (size, False) for name, size in mtp.items()}


def by_hand(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows, columns = (torch.arange(size) // 128 for size in weight.shape)
    return weight.float() * scale[rows][:, columns]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """-> (folder of four shards, every weight's true value in FP32)."""
    folder = tmp_path_factory.mktemp("released") / "V3"
    folder.mkdir()
    torch.manual_seed(0)
    tensors, truth = {}, {}
    for name, (size, fp8) in released().items():
        value = torch.randn(size)
        if fp8:
            scale = torch.rand([math.ceil(n / 128) for n in size]) * 1e-2 + 1e-4
            tensors[name], tensors[f"{name}_scale_inv"] = (value * 60).to(torch.float8_e4m3fn), scale
            truth[name] = by_hand(tensors[name], scale)
        else:
            tensors[name] = value if name.endswith("correction_bias") else value.bfloat16()
            truth[name] = tensors[name].float()
    for copy, of in (("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")):
        tensors[f"model.layers.2.{copy}.weight"] = tensors[f"{of}.weight"].clone()
        del truth[f"model.layers.2.{copy}.weight"]
    names = list(tensors)
    # Four files, each cut between a weight and its scales.
    scales = [i for i, name in enumerate(names) if name.endswith("_scale_inv")]
    cuts = [scales[len(scales) * part // 4] for part in (1, 2, 3)]
    where = {n: f"model-{1 + sum(i >= c for c in cuts):05d}-of-000004.safetensors" for i, n in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    qwen_tokenizer(folder)
    return folder, truth


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def test_released_names_and_scales_come_in_as_the_values_they_stand_for(source, tmp_path):
    folder, truth = source
    cfg = hf_convert.convert(folder, tmp_path / "out", max_shard_bytes=200_000)
    found = stored(tmp_path / "out")
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        dtype = torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16
        assert found[name].dtype == dtype and torch.equal(found[name], value.to(dtype)), name
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and all(file.stat().st_size < 230_000 for file in files)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {key: value for key, value in SETTINGS.items() if key != "quantization_config"}
    assert hf.config_from(tmp_path / "out") == cfg and cfg.num_nextn_predict_layers == 1
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_a_network_takes_fp8_weights_as_they_are_released(source):
    folder, truth = source
    cfg = hf.config_from(folder)
    assert cfg.dtype is DType.bf16 and (cfg.rope_factor, cfg.rope_mscale_all_dim) == (40, 1.0)
    cfg = dataclasses.replace(cfg, dtype=DType.fp32)
    module = built(cfg, seed=1)
    hf.load_pretrained(module, cfg, folder)
    filled = {slot.name: slot.content() for slot in hf._slots(module, cfg)}
    assert filled.keys() == truth.keys()
    for name, value in truth.items():
        assert torch.equal(filled[name], value), name


def test_fp8_written_on_request_is_read_as_before(source, tmp_path):
    folder, truth = source
    hf_convert.convert(folder, tmp_path / "fp8", fp8=True)
    found, given = stored(tmp_path / "fp8"), stored(folder)
    copies = {"model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"}
    assert found.keys() == given.keys() - copies
    assert {n: t.dtype for n, t in found.items()} == {n: given[n].dtype for n in found}
    settings = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert settings["quantization_config"] == SETTINGS["quantization_config"]
    # Blocks whose largest value was not 448 get finer scales; a second time nothing changes.
    hf_convert.convert(tmp_path / "fp8", tmp_path / "again", fp8=True)
    for name, tensor in stored(tmp_path / "again").items():
        if name.endswith("_scale_inv"):
            torch.testing.assert_close(tensor, found[name], rtol=3e-7, atol=0)
        else:
            assert torch.equal(tensor.float(), found[name].float()), name


def test_missing_extra_and_misshapen_tensors_are_listed_before_anything_is_written(source, tmp_path):
    folder = Path(shutil.copytree(source[0], tmp_path / "damaged"))
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [n for n in tensors if n.startswith("model.layers.1.mlp.experts.3.")]:
            del tensors[name]
        if "lm_head.weight" in tensors:
            tensors["lm_head.weight"] = torch.zeros(95, 160)
            tensors["model.layers.3.input_layernorm.weight"] = torch.zeros(160)
        save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        hf_convert.convert(folder, tmp_path / "out")
    message = str(caught.value)
    assert "3 missing: model.layers.1.mlp.experts.3.gate_proj.weight" in message
    assert "1 left over: model.layers.3.input_layernorm.weight" in message
    assert "1 of another shape: lm_head.weight (95, 160) (here (96, 160))" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone_and_a_failed_copy_leaves_nothing(source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("dear to me")
    with pytest.raises(CheckpointError, match="holds something else than a model"):
        hf_convert.convert(source[0], tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "dear to me"
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the model.*choose another folder"):
        hf_convert.convert(source[0], tmp_path / "file" / "below")


SHARD, SHARDS = 12 * 2**20, 12


def _peak_of_import(folder: str) -> tuple[int, int]:
    """-> (bytes by which memory in use rose at most, bytes written)."""
    parts = Path(folder) / "big"
    cfg = shape("llama3", hidden_size=512, intermediate_size=2048, num_hidden_layers=10, vocab_size=2048)
    parts.mkdir()
    (parts / "config.json").write_text(json.dumps(cfg.to_hf_dict()))
    qwen_tokenizer(parts)
    from modeling.hf_names import expected

    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, size in expected(cfg).items():
        if sum(t.nbytes for t in shards[-1].values()) > SHARD:
            _save(parts, len(shards), shards[-1])
            shards.append({})
        shards[-1][name] = torch.randn(size)
    _save(parts, len(shards), shards[-1])
    where = {n: f"model-{i + 1:05d}.safetensors" for i, names in enumerate(shards) for n in names}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    shards.clear()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    hf_convert.convert(parts, Path(folder) / "out", max_shard_bytes=SHARD)
    return _memory("VmHWM") - before, sum(f.stat().st_size for f in (Path(folder) / "out").glob("*.safetensors"))


def _save(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / f"model-{number:05d}.safetensors")


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def test_memory_stays_near_one_shard(tmp_path):
    rose, written = gloo.run(_peak_of_import, str(tmp_path), ranks=1)[0]
    print(f"peak rose by {rose / 2**20:.0f} MiB for {written / 2**20:.0f} MiB in shards of {SHARD / 2**20:.0f} MiB")
    # The shard that is written and the mapped one that is read.
    assert written > SHARDS * SHARD and rose < 3.5 * SHARD


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3_scaled", "moonlight", "v2_lite"])
def test_other_families_come_through_bit_for_bit(family, tmp_path):
    cfg = shape(family, dtype=DType.bf16)
    module = built(cfg, seed=0)
    hf.save_pretrained(module, cfg, tmp_path / "one")
    qwen_tokenizer(tmp_path / "one")
    hf_convert.convert(tmp_path / "one", tmp_path / "two", max_shard_bytes=20_000)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    other = built(cfg, seed=1)
    hf.load_pretrained(other, cfg, tmp_path / "two")
    left, right = weights(module), weights(other)
    assert all(torch.equal(left[name], right[name]) for name in left)
    hf_convert.convert(tmp_path / "one", tmp_path / "wide", dtype=DType.fp32)
    wide = stored(tmp_path / "wide")
    assert all(wide[n].dtype == torch.float32 and torch.equal(wide[n], one[n].float()) for n in one)
    assert hf.config_from(tmp_path / "wide").dtype is DType.fp32


def test_what_repeats_the_model_is_passed_over(tmp_path):
    qwen_folder(tmp_path / "one")
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "one" / "model.safetensors")
    hf_convert.convert(tmp_path / "one", tmp_path / "two")
    assert stored(tmp_path / "two").keys() == tensors.keys() - {
        "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    }


def test_a_name_is_looked_up_in_the_hubs_cache(tmp_path, monkeypatch):
    from infra.errors import ConfigError

    repo = tmp_path / "models--some--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    qwen_folder(repo / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.resolve("hf", "some/model").resolve() == (repo / "snapshots" / "abc").resolve()
    with pytest.raises(ConfigError, match="hf=some/other: is no folder here and cannot be fetched"):
        hub.resolve("hf", "some/other")
    with pytest.raises(ConfigError, match="hf=nothing: is not there"):
        hub.resolve("hf", "nothing")
