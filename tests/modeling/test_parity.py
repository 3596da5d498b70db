"""Our network against transformers' DeepSeek models with the same weights, in both directions: logits within 1e-4."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modeling import hf
from modeling.build import build_model
from modeling.config import ModelConfig
from modeling.mtp import without_mtp
from tests.training.tiny import model_config
from training import parallel
from training.parallel import ParallelConfig

GROUPED = dict(n_routed_experts=8, num_experts_per_tok=4, n_group=4, topk_group=2)
YARN = dict(rope_factor=40.0, rope_original_max_position_embeddings=32, max_position_embeddings=1280)
SOFTMAX = dict(
    scoring_func="softmax", q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3, num_nextn_predict_layers=0
)
CASES = {
    "plain": dict(),
    "sequential_experts": dict(experts="sequential"),
    "direct_query": dict(q_lora_rank=None, n_shared_experts=2),
    "groups_scaled": dict(routed_scaling_factor=2.5, **GROUPED),
    "many_dense_deep_mtp": dict(num_hidden_layers=3, first_k_dense_replace=2, num_nextn_predict_layers=2),
    "yarn": dict(rope_mscale=0.707, rope_mscale_all_dim=0.5, **YARN),
    "softmax": SOFTMAX,
    "softmax_yarn": dict(rope_mscale=0.707, rope_mscale_all_dim=0.707, routed_scaling_factor=1.7, **SOFTMAX, **YARN),
}


@pytest.fixture(scope="module")
def transformers():
    """The reference; importing it takes seconds."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def shape(**changes) -> ModelConfig:
    """A small network whose weights are large enough for every part to show in the logits."""
    from modeling.config import Experts, ScoringFunc

    for key, kind in (("scoring_func", ScoringFunc), ("experts", Experts)):
        if key in changes:
            changes[key] = kind(changes[key])
    return model_config(**(dict(initializer_range=0.2, num_hidden_layers=3) | changes))


def randomize(module: nn.Module) -> None:
    """Give norms and routers' biases, which start as ones and zeros, values of their own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if "norm" in name:
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
            elif name.endswith(("expert_bias", "e_score_correction_bias")):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)


def built(cfg: ModelConfig, seed: int) -> nn.Module:
    parallel.init(ParallelConfig(), seed)
    return build_model(cfg).eval()


def tokens(cfg: ModelConfig) -> Tensor:
    return torch.randint(0, cfg.vocab_size, (2, 48), generator=torch.Generator().manual_seed(2))


def logits(module: nn.Module, ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad(), without_mtp(module):
        return module(ids, positions, None)


def reference(transformers, folder: Path) -> nn.Module:
    """The folder as transformers reads it, after a check that it found every tensor it has."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"]
    # It knows no MTP module of a model this small.
    depth = model.config.num_hidden_layers
    assert all(int(name.split(".")[2]) >= depth for name in info["unexpected_keys"])
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_exported_weights_give_the_same_logits_in_transformers(case, transformers, tmp_path):
    cfg = shape(**CASES[case])
    module = built(cfg, seed=3)
    randomize(module)
    hf.save_pretrained(module, cfg, tmp_path / "model")
    other = reference(transformers, tmp_path / "model")
    ids = tokens(cfg)
    with torch.no_grad():
        expected = other(ids).logits
    assert expected.std() > 0.5
    assert (logits(module, ids) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_weights_of_transformers_give_the_same_logits_here(case, transformers, tmp_path):
    cfg = shape(**CASES[case] | dict(num_nextn_predict_layers=0))
    torch.manual_seed(4)
    settings = cfg.to_hf_dict()
    kind = settings.pop("model_type")
    other = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings)).eval()
    randomize(other)
    other.save_pretrained(tmp_path)
    found = hf.config_from(tmp_path)
    module = built(found, seed=5)
    hf.load_pretrained(module, found, tmp_path)
    ids = tokens(cfg)
    with torch.no_grad():
        expected = other(ids).logits
    assert expected.std() > 0.5
    assert (logits(module, ids) - expected).abs().max() < 1e-4


def test_mtp_module_gives_the_hidden_states_of_transformers_one(transformers, tmp_path):
    from safetensors.torch import load_file
    from transformers.modeling_layers import MtpModel

    cfg = shape()
    module = built(cfg, seed=6)
    randomize(module)
    hf.save_pretrained(module, cfg, tmp_path / "model")
    other = reference(transformers, tmp_path / "model")
    prefix = f"model.layers.{cfg.num_hidden_layers}."
    saved = load_file(tmp_path / "model" / "model.safetensors")
    saved = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
    layer = MtpModel(other, 1).eval().layers[0]
    layer.load_state_dict(_as_transformers_mtp(saved, cfg.n_routed_experts), strict=True)

    ids = tokens(cfg)
    batch, seq = ids.shape
    positions = torch.arange(seq).expand_as(ids)
    hidden = {}
    module.mtp.register_forward_hook(lambda _module, _inputs, out: hidden.update(out=out))
    with torch.no_grad():
        module(ids, positions, None, labels=ids)
        ours = hidden["out"].chunk(2)[1].transpose(0, 1)  # [batch, seq, hidden], behind the main model's own
        embedded = other.get_input_embeddings()(torch.cat([ids[:, 1:], ids.new_zeros(batch, 1)], 1))
        theirs = layer(
            embedded,
            other(ids, output_hidden_states=True).hidden_states[-1],
            position_embeddings=other.model.rotary_emb(embedded, position_ids=positions),
            attention_mask=torch.full((seq, seq), float("-inf")).triu(1)[None, None],
            position_ids=positions,
            past_key_values=None,
        )
    # The last position has no next token.
    assert (theirs - ours)[:, :-1].abs().max() < 1e-4
    assert theirs.std() > 0.5


def _as_transformers_mtp(saved: dict[str, Tensor], experts: int) -> dict[str, Tensor]:
    """A saved MTP module under the names of transformers' MtpLayer, which stacks the experts."""

    def stack(name: str) -> Tensor:
        return torch.stack([saved[f"mlp.experts.{e}.{name}.weight"] for e in range(experts)])

    own = {name: saved[name] for name in ("enorm.weight", "hnorm.weight", "eh_proj.weight")}
    block = {f"mtp_block.{n}": t for n, t in saved.items() if n.startswith(("input_", "post_", "self_attn.", "mlp."))}
    block = {name: tensor for name, tensor in block.items() if ".experts." not in name}
    return (
        own
        | block
        | {
            "post_norm.weight": saved["shared_head.norm.weight"],
            "mtp_block.mlp.experts.gate_up_proj": torch.cat([stack("gate_proj"), stack("up_proj")], 1),
            "mtp_block.mlp.experts.down_proj": stack("down_proj"),
        }
    )


@pytest.mark.parametrize("preset", ["16b", "v2_lite", "671b"])
def test_parameter_counts_are_those_of_transformers_models(preset, transformers):
    cfg = ModelConfig.preset(preset)
    settings = cfg.to_hf_dict()
    kind = settings.pop("model_type")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings))
    counted = [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))]
    assert sum(t.numel() for t in counted) == cfg.num_params()
