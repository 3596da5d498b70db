"""A network that scores: transformers' sequence classification gives the same number from the exported folder."""

import dataclasses

import pytest
import torch

from infra.errors import CheckpointError, ConfigError
from modeling import hf
from modeling.build import build_model
from modeling.config import Family, Head, ModelConfig
from tests.training.tiny import model_config
from training import parallel
from training.parallel import ParallelConfig

SHAPES = {
    "deepseek": lambda **kw: model_config(num_nextn_predict_layers=0, initializer_range=0.2, **kw),
    "qwen2 tied": lambda **kw: ModelConfig(
        family=Family.qwen2,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
        **kw,
    ),
}


def built(cfg: ModelConfig, seed: int):
    parallel.init(ParallelConfig(), seed)
    return build_model(cfg).eval()


def scores(module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(ids, torch.arange(ids.shape[1]).expand_as(ids), None, labels=ids)


@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_those_of_transformers_from_the_exported_folder(name, tmp_path):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cfg = SHAPES[name](head=Head.score)
    module = built(cfg, seed=3)
    torch.nn.init.normal_(module.output_layer.weight, generator=torch.Generator().manual_seed(1))
    hf.save_pretrained(module, cfg, tmp_path / "model")
    other, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and other.config.num_labels == 1
    ids = torch.randint(0, 64, (1, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = [other.eval()(ids[:, :n]).logits.item() for n in range(1, 21)]
    assert torch.tensor(expected).std() > 0.1
    assert scores(module, ids)[0].tolist() == pytest.approx(expected, abs=1e-4)

    again = built(hf.config_from(tmp_path / "model"), seed=4)
    hf.load_pretrained(again, cfg, tmp_path / "model")
    assert torch.equal(scores(again, ids), scores(module, ids))


@pytest.mark.parametrize("name", SHAPES)
def test_a_language_models_weights_are_taken_and_the_head_starts_at_zero(name, tmp_path):
    cfg = SHAPES[name]()
    language = built(cfg, seed=5)
    hf.save_pretrained(language, cfg, tmp_path / "model")
    score_cfg = dataclasses.replace(cfg, head=Head.score)
    module = built(score_cfg, seed=6)
    hf.load_pretrained(module, score_cfg, tmp_path / "model")
    ids = torch.randint(0, 64, (2, 9))
    assert not scores(module, ids).any()
    own, theirs = dict(module.named_parameters()), dict(language.named_parameters())
    assert all(torch.equal(own[key], theirs[key]) for key in own if key != "output_layer.weight")
    assert (
        sum(p.numel() for p in own.values())
        + sum(b.numel() for key, b in module.named_buffers() if key.endswith("expert_bias"))
        == score_cfg.num_params()
    )


def test_a_reward_model_is_no_language_model(tmp_path):
    cfg = SHAPES["deepseek"](head=Head.score)
    hf.save_pretrained(built(cfg, seed=1), cfg, tmp_path / "model")
    language_cfg = SHAPES["deepseek"]()
    with pytest.raises(CheckpointError, match="is a reward model, which writes no text"):
        hf.load_pretrained(built(language_cfg, seed=1), language_cfg, tmp_path / "model")
    from experiments.config import compose

    with pytest.raises(ConfigError, match="model.head=score: a reward model writes no text"):
        compose("zero", [f"rl.checkpoint={tmp_path / 'model'}"])


def test_a_scoring_network_predicts_no_tokens():
    with pytest.raises(ConfigError, match="model.num_nextn_predict_layers=1: model.head=score"):
        ModelConfig(head=Head.score)
    settings = SHAPES["deepseek"](head=Head.score).to_hf_dict()
    assert ModelConfig.from_hf_dict(settings).head is Head.score
    with pytest.raises(ConfigError, match="num_labels=3"):
        ModelConfig.from_hf_dict(settings | {"num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}})
