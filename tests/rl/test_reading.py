"""An encoder that learns to read: patches say the number they show, and nothing of the language model moves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError
from modeling import hf
from modeling.tokenizer import Tokenizer
from modeling.vision_config import VISIONS, Vision
from rl.stages import reading
from rl.stages.config import CaptionsConfig
from rl.tasks.countdown_image import CountdownImage
from training import checkpoint, parallel
from training.config import ParallelConfig
from training.export import as_folder
from training.whole import build_whole

BASE = Path(__file__).resolve().parents[2] / "experiments" / "base"
PLACES = VISIONS[Vision.tiny].places


def test_patches_are_to_say_the_numbers_of_their_picture():
    tokenizer = Tokenizer.load(BASE)
    made = reading.pictures(CountdownImage(), tokenizer, range(20), PLACES)
    blank = tokenizer.encode(" ")[0]
    for i, (image, said) in enumerate(zip(made.images, made.said.tolist(), strict=True)):
        question = CountdownImage().train_question(i)
        assert (image.numpy() == question.pixels).all()
        numbers = [question.meta["target"], *question.meta["numbers"]]
        written = [token for token in said if token != blank]
        assert written == [token for n in numbers for token in tokenizer.encode(str(n)) * len(str(n))]


def test_it_learns_and_the_language_model_stays(tmp_path):
    parallel.init(ParallelConfig(), 0)
    tokenizer, cfg = Tokenizer.load(BASE), replace(checkpoint.model_config(BASE), vision=Vision.tiny)
    module = build_whole(cfg)
    hf.load_pretrained(module, cfg, as_folder(BASE, tmp_path / "start"))
    before = {name: weight.clone() for name, weight in module.state_dict().items() if torch.is_tensor(weight)}
    fresh = reading.pictures(CountdownImage(), tokenizer, range(90_000, 90_064), PLACES)
    table = module.embedding.word_embeddings.weight

    def distance() -> float:
        with torch.no_grad():
            return ((module.vision(fresh.images) - table[fresh.said]).square().mean() / table.var()).item()

    at_first = distance()
    reading.teach(module, CountdownImage(), tokenizer, 40)
    assert distance() < 0.6 * at_first
    after = module.state_dict()
    moved = {name.split(".")[0] for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved == {"vision"}
    assert all(weight.grad is None for name, weight in module.named_parameters() if not name.startswith("vision"))


def test_encoders_that_come_pre_trained_are_not_taught():
    with pytest.raises(ConfigError, match="captions.reading_steps=5"):
        CaptionsConfig(vision=Vision.siglip_so400m, reading_steps=5)
    with pytest.raises(ConfigError, match="captions.reading_steps=-1"):
        CaptionsConfig(reading_steps=-1)
