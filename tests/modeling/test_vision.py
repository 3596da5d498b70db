"""A language model with eyes: what it computes, what it keeps, and that text alone is as before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import CheckpointError, ConfigError, R1Error
from modeling import hf, vision_config
from modeling.build import build_model
from modeling.config import ModelConfig
from modeling.decode import Decoder
from modeling.generate import Generator
from modeling.hf_vision import load_encoder
from modeling.merge import merge
from modeling.sampling import SamplingConfig
from modeling.vision import VisionTower
from modeling.vision_config import VISIONS, Vision, image_id, weight_shapes
from tests.training.tiny import model_config
from training import parallel
from training.data.pictures import draw
from training.parallel import ParallelConfig

SEES = model_config(vision=Vision.tiny)
PLACES = [image_id(SEES)] * VISIONS[Vision.tiny].places
PROMPT = [3, 4, *PLACES, 5, 6]
ONE, OTHER = draw((3, 5, 8), 18), draw((10, 2, 7), 70)


@pytest.fixture(scope="module")
def model():
    parallel.init(ParallelConfig(), 0)
    return build_model(SEES).eval()


@torch.no_grad()
def full(model, rows: list[list[int]], *images: np.ndarray, at: tuple[int, ...] = (0,)) -> torch.Tensor:
    """Logits by Megatron's own forward pass, rows of one length; at: the rows of the images."""
    ids = torch.tensor(rows)
    seen = {"images": torch.from_numpy(np.stack(images)), "image_rows": torch.tensor(at)} if images else {}
    return model(ids, torch.arange(ids.shape[1]).expand_as(ids), None, **seen)


def test_decoding_behind_an_image_equals_the_full_forward_pass(model):
    decoder = Decoder(model, SEES)
    logits, cache = decoder.prefill([PROMPT, [7, 8, 9], [*PROMPT, 11]], [ONE, None, OTHER])
    expected = full(model, [PROMPT], ONE)[0, -1], full(model, [[7, 8, 9]])[0, -1], full(model, [[*PROMPT, 11]], OTHER)
    for found, right in zip(logits, (*expected[:2], expected[2][0, -1]), strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)
    stepped = decoder.step(torch.tensor([12, 12, 12]), cache)
    torch.testing.assert_close(stepped[0], full(model, [[*PROMPT, 12]], ONE)[0, -1], atol=1e-4, rtol=0)
    assert (full(model, [PROMPT], OTHER)[0, -1] - expected[0]).abs().max() > 1e-3  # the image matters


def test_images_go_to_their_rows_in_order(model):
    both = full(model, [PROMPT, [9] * len(PROMPT), PROMPT], ONE, OTHER, at=(0, 2))
    torch.testing.assert_close(both[0], full(model, [PROMPT], ONE)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[2], full(model, [PROMPT], OTHER)[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(R1Error, match="room for 24 patches"):
        full(model, [PROMPT, [9] * len(PROMPT)], ONE, OTHER, at=(0, 1))


def test_the_image_s_token_is_text_where_the_model_wrote_it_itself(model):
    wrote = [*PROMPT, image_id(SEES), 12]
    decoder = Decoder(model, SEES)
    _, cache = decoder.prefill([PROMPT], [ONE])
    decoder.step(torch.tensor([image_id(SEES)]), cache)
    stepped = decoder.step(torch.tensor([12]), cache)[0]
    blind = [image_id(SEES)] * len(wrote)
    together = full(model, [wrote, blind], ONE)
    torch.testing.assert_close(together[0, -1], stepped, atol=1e-4, rtol=0)
    torch.testing.assert_close(together[1], full(model, [blind])[0], atol=1e-5, rtol=1e-4)


def test_merge_by_hand():
    embedded, marked = torch.zeros(2, 4, 1), torch.tensor([[0, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)
    merged = merge(embedded, marked, torch.tensor([[[5.0], [7.0]]]), torch.tensor([1]))
    assert merged.flatten().tolist() == [0, 0, 0, 0, 0, 5, 7, 0]


def test_equal_prompts_with_different_images_are_different_prompts(model):
    ask = dict(seeds=[1, 1, 1], stop_ids=set())
    sampling = SamplingConfig(max_response_tokens=3, temperature=1.0)
    together = Generator(model, SEES).generate([PROMPT] * 3, sampling, images=[ONE, OTHER, ONE], **ask)
    alone = Generator(model, SEES).generate([PROMPT], sampling, images=[OTHER], seeds=[1], stop_ids=set())[0]
    assert together[0].tokens == together[2].tokens
    np.testing.assert_allclose(together[1].logprobs, alone.logprobs, atol=1e-4)
    assert abs(together[0].logprobs[0] - alone.logprobs[0]) > 1e-4


def test_gradients_reach_the_first_layer_of_the_encoder(model):
    ids = torch.tensor([PROMPT])
    model(ids, torch.arange(len(PROMPT))[None], None, images=torch.from_numpy(ONE)[None])[0, -1, 3].backward()
    missing = [name for name, p in model.vision.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    model.zero_grad()
    assert missing == []


def test_text_alone_is_the_same_to_the_bit(model):
    blind = build_model(replace(SEES, vision=Vision.none)).eval()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("vision.")}
    blind.load_state_dict(shared)
    rows = [[7, 8, 9, 3], [1, 2, 3, 4]]
    assert torch.equal(full(model, rows), full(blind, rows))
    logits, _ = Decoder(model, SEES).prefill(rows)
    assert torch.equal(logits, Decoder(blind, replace(SEES, vision=Vision.none)).prefill(rows)[0])


def test_folder_holds_the_eyes_and_a_blind_model_may_get_some(model, tmp_path):
    hf.save_pretrained(model, SEES, tmp_path / "sees")
    assert ModelConfig.from_hf_dict(SEES.to_hf_dict()) == replace(SEES, initializer_range=0.1)
    again = build_model(SEES).eval()
    hf.load_pretrained(again, SEES, tmp_path / "sees")
    assert torch.equal(full(again, [PROMPT], ONE), full(model, [PROMPT], ONE))

    blind = replace(SEES, vision=Vision.none)
    with pytest.raises(CheckpointError, match="vision"):
        hf.load_pretrained(build_model(blind), blind, tmp_path / "sees")
    hf.save_pretrained(build_model(blind), blind, tmp_path / "blind")
    eyes = again.vision.encoder.conv1.weight.clone()
    hf.load_pretrained(again, SEES, tmp_path / "blind")
    assert torch.equal(again.vision.encoder.conv1.weight, eyes)
    assert not torch.equal(full(again, [[3, 4]]), full(model, [[3, 4]]))


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_weights_are_those_that_a_folder_is_expected_to_hold(kind, monkeypatch):
    shape = replace(VISIONS[Vision.tiny], kind=kind, height=16, num_layers=1)
    monkeypatch.setitem(vision_config.VISIONS, Vision.tiny, shape)
    built = build_model(SEES)
    held = {k: tuple(v.shape) for k, v in built.state_dict().items() if k.startswith("vision.") and torch.is_tensor(v)}
    assert held == weight_shapes(SEES)
    assert built.vision(torch.zeros(2, 5, 9, dtype=torch.uint8)).shape == (2, 16, SEES.hidden_size)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_published_weights_give_transformers_features(kind, monkeypatch, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    shape = replace(
        VISIONS[Vision.tiny], kind=kind, height=16, width=16, num_layers=2, eps=1e-6 if kind == "siglip" else 1e-5
    )
    monkeypatch.setitem(vision_config.VISIONS, Vision.tiny, shape)
    settings = dict(hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4)
    settings |= dict(image_size=16, patch_size=8, initializer_range=0.2)
    peer = (
        SiglipVisionModel(SiglipVisionConfig(**settings))
        if kind == "siglip"
        else CLIPVisionModel(CLIPVisionConfig(**settings))
    ).eval()
    peer.save_pretrained(tmp_path)
    tower: VisionTower = build_model(SEES).eval().vision
    load_encoder(tower.encoder, tmp_path)
    pixels = tower.pixels(torch.randint(0, 256, (2, 16, 16), dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(tower.encoder(pixels), peer(pixels).last_hidden_state, atol=2e-5, rtol=1e-4)

    monkeypatch.setitem(vision_config.VISIONS, Vision.tiny, replace(shape, hidden_size=48))
    with pytest.raises(CheckpointError, match="captions.vision"):
        load_encoder(build_model(SEES).vision.encoder, tmp_path)


def test_images_of_another_size_are_scaled_and_padded(model):
    tower: VisionTower = model.vision
    assert tower.pixels(torch.full((1, 24, 64), 255, dtype=torch.uint8)).eq(4).all()
    half = tower.pixels(torch.full((1, 12, 16), 255, dtype=torch.uint8))  # twice as large, and black at the right
    assert half.shape == (1, 3, 24, 64) and half[..., :32].eq(4).all() and half[..., 32:].eq(0).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="parallel.tensor=2.*vision"):
        build_model(SEES, tp=2)
    with pytest.raises(ConfigError, match="reads no images.*r1 captions"):
        vision_config.prompt_with_image("<image>", None, replace(SEES, vision=Vision.none))
