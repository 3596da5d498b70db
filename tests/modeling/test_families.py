"""Every family against transformers with the same weights, both ways, and decoding against the whole forward."""

import pytest
import torch

from modeling import hf, hf_names
from modeling.decode import Decoder
from tests.modeling.families import FAMILIES, built, logits, randomize, shape


@pytest.fixture(scope="module")
def transformers():
    """The reference; importing it takes seconds."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def ids():
    return torch.randint(0, 64, (2, 48), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_weights_give_the_same_logits_in_transformers(family, transformers, tmp_path):
    cfg = shape(family)
    module = built(cfg, seed=3)
    hf.save_pretrained(module, cfg, tmp_path / "model")
    other, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(hf_names.layer_of(name) >= cfg.num_hidden_layers for name in info["unexpected_keys"])  # MTP
    with torch.no_grad():
        expected = other.eval()(ids()).logits
    assert expected.std() > 0.5
    assert (logits(module, ids()) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_transformers_give_the_same_logits_here(family, transformers, tmp_path):
    cfg = shape(family, num_nextn_predict_layers=0)
    torch.manual_seed(4)
    settings = cfg.to_hf_dict()
    kind = settings.pop("model_type")
    other = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings)).eval()
    randomize(other)
    other.save_pretrained(tmp_path / "theirs")
    found = hf.config_from(tmp_path / "theirs")
    assert found == cfg
    module = built(found, seed=5)
    hf.load_pretrained(module, found, tmp_path / "theirs")
    with torch.no_grad():
        expected = other(ids()).logits
    assert expected.std() > 0.5
    assert (logits(module, ids()) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_logits_of_the_whole_forward(family):
    cfg = shape(family)
    module = built(cfg, seed=6)
    rows, prompts = ids().tolist(), [7, 30]
    decoder = Decoder(module, cfg)
    step, cache = decoder.prefill([row[:length] for row, length in zip(rows, prompts, strict=True)])
    whole = logits(module, ids())
    for at in range(16):
        for row, length in enumerate(prompts):
            torch.testing.assert_close(step[row], whole[row, length - 1 + at], rtol=0, atol=1e-4)
        step = decoder.step(torch.tensor([row[length + at] for row, length in zip(rows, prompts, strict=True)]), cache)
    assert cache.latents.shape[0] * cache.latents.shape[3] == cfg.kv_elements_per_token()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expected_tensors_are_those_of_the_built_model(family):
    cfg = shape(family)
    module = built(cfg, seed=7)
    own = {slot.name: slot.shape for slot in hf._slots(module, cfg)}
    assert own == hf_names.expected(cfg)
    count = sum(torch.Size(s).numel() for s in own.values())
    assert count == cfg.num_params(mtp=True)
    assert count == sum(p.numel() for p in module.parameters()) + sum(
        b.numel() for name, b in module.named_buffers() if name.endswith("expert_bias")
    )
