"""From a language model to one that answers questions in pictures: captions, then joint RL, each a step or two."""

import json
from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from modeling.vision_config import IMAGE, VISIONS, Vision, image_id
from rl.batch import collate, rows_of
from rl.config import RLConfig
from rl.evaluate import EvaluateConfig
from rl.rewards.base import RewardConfig
from rl.rollout.local import LocalEngine
from rl.stages import captions, zero
from rl.stages.config import CaptionsConfig
from rl.tasks.base import TaskConfig
from rl.tasks.countdown import Countdown
from rl.tasks.countdown_image import CountdownImage
from rl.tasks.mix import build_task
from rl.types import Completion, Group
from tests.stages import Log
from training import checkpoint, parallel
from training.config import OptimizerConfig, ParallelConfig, SFTConfig
from training.data.corpus import CorpusConfig
from training.data.countdown import held_out
from training.losses import next_token_loss
from training.schedules import Schedule, ScheduleConfig
from training.state import build_state
from training.step import train_step

BASE = Path(__file__).resolve().parents[2] / "experiments" / "base"
JOINT = TaskConfig(names=["countdown_image", "countdown"])
CFG = CaptionsConfig(examples=16, evaluate_images=4, reading_steps=2)
PLACES = VISIONS[Vision.tiny].places


def test_a_question_in_a_picture_is_countdown_s_without_its_words():
    seen, read = CountdownImage().test_questions(5), Countdown().test_questions(5)
    assert [q.meta for q in seen] == [q.meta for q in read] and seen[0].id != read[0].id
    assert all(q.prompt == f"User: {IMAGE}\nAssistant:" and q.pixels.any() for q in seen)
    assert CountdownImage().score(seen[0], f"<answer>{seen[0].answer}</answer>") == 1.0
    assert json.loads(json.dumps(seen[0].image)) == seen[0].pixels.tolist()  # it is kept in checkpoints


def test_examples_are_of_three_kinds_and_of_no_held_out_numbers():
    tasks = CountdownImage(), Countdown()
    made = [captions.example(CaptionsConfig(), CorpusConfig(), *tasks, i) for i in range(300)]
    text = [e for e in made if e.question.image is None]
    bare = [e for e in made if not e.ends]
    assert 30 < len(text) < 100 and 120 < len(bare) < 230 and len(made) - len(text) - len(bare) > 40
    assert not any(held_out(tuple(e.question.meta["numbers"])) for e in made)
    for e in made:
        assert e.response.startswith(f"<think>\n{captions.caption_of(e.question)}\n") is (e.question.image is not None)
        assert e.ends is e.response.endswith("</answer>")
    assert made[7] == captions.example(CaptionsConfig(), CorpusConfig(), *tasks, 7)


def test_rows_carry_their_question_s_image_and_text_rows_none():
    asked = [CountdownImage().train_question(0), Countdown().train_question(1)]
    groups = [Group(q, [Completion([5, 6], "", [0.0, 0.0], [], True, advantage=1.0)] * 2) for q in asked]
    rows = rows_of(groups, [[1, 2], [3]], drop_zero_variance=False)
    batch = collate(rows, [0.25] * 4, pad_id=0)
    assert batch.images.dtype == torch.uint8
    assert [(i == asked[0].pixels).all() for i in batch.images.numpy()] == [True, True]
    assert collate(rows[2:], [0.5] * 2, pad_id=0).images is None


def test_the_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="captions.vision=none"):
        CaptionsConfig(vision=Vision.none)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    """Two steps of captions from the released base."""
    folder = tmp_path_factory.mktemp("captions")
    parallel.init(ParallelConfig(), 0)
    captions.run(
        BASE,
        parallel_cfg=ParallelConfig(),
        task_cfg=TaskConfig(),
        corpus=CorpusConfig(),
        captions=CFG,
        cfg=SFTConfig(epochs=1, batch_size=8, evaluate_every=2, save_every=2),
        run_dir=folder,
        seed=0,
        tracker=Log(folder / "metrics.jsonl"),
        config={},
    )
    return folder


def test_captions_train_language_model_and_eyes_and_read_pictures(seeing):
    logged = [json.loads(line) for line in (seeing / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in line for line in logged) == 2
    assert [line["eval/caption_accuracy"] for line in logged if "eval/caption_accuracy" in line] == [0.0, 0.0]
    assert checkpoint.model_config(seeing / "model").vision is Vision.tiny
    tokenizer = Tokenizer.load(seeing / "model")
    state = build_state(
        checkpoint.model_config(seeing / "model"),
        OptimizerConfig(),
        ParallelConfig(),
        stage="x",
        init_from=seeing / "model",
    )
    engine = LocalEngine(state.module, state.model_cfg, tokenizer, SamplingConfig(max_response_tokens=4), seed=0)
    prompt = engine.prompt_ids(CountdownImage().train_question(0))
    assert prompt.count(image_id(state.model_cfg)) == PLACES and image_id(state.model_cfg) >= tokenizer.num_tokens
    assert len(engine.generate(CountdownImage().test_questions(2), 2, step=0)[1]) == 2


def test_a_checkpoint_brings_back_eyes_and_their_optimiser(seeing, tmp_path):
    cfg, tokenizer = checkpoint.model_config(seeing / "model"), Tokenizer.load(seeing / "model")

    def state():
        return build_state(
            cfg, OptimizerConfig(lr=1e-3), ParallelConfig(), stage="captions", init_from=seeing / "model"
        )

    one, other = state(), state()
    engine = LocalEngine(one.module, cfg, tokenizer, SamplingConfig(max_response_tokens=4), seed=0)
    tasks = CountdownImage(), Countdown()
    examples = [captions.example(CFG, CorpusConfig(), *tasks, i) for i in range(6)]
    batches = captions.micro_batches(examples, engine, SFTConfig())
    now = Schedule(ScheduleConfig(), total=10).at(5)
    train_step(one, batches, next_token_loss, now)
    checkpoint.save(one, tmp_path, {})
    checkpoint.load_latest(other, tmp_path)
    losses = [train_step(s, batches, next_token_loss, now)["train/loss"] for s in (one, other)]
    assert losses[0] == losses[1]
    weights = [dict(s.module.named_parameters()) for s in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    moved = weights[0]["vision.encoder.conv1.weight"] - state().module.vision.encoder.conv1.weight
    assert moved.abs().max() > 1e-4


def test_joint_rl_on_pictures_and_text(seeing, tmp_path):
    model = zero.run(
        seeing / "model",
        parallel_cfg=ParallelConfig(),
        task_cfg=JOINT,
        reward=RewardConfig(length=0.5),
        sampling=SamplingConfig(max_response_tokens=12),
        evaluation=EvaluateConfig(curve_questions=4, curve_samples=1),
        cfg=RLConfig(steps=1, questions_per_step=4, group_size=2, drop_zero_variance=False, minibatches=1),
        run_dir=tmp_path,
        seed=0,
        tracker=Log(tmp_path / "metrics.jsonl"),
        config={},
    )
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in logged if "rl/sampler_trainer_diff" in line)
    assert step["rl/sampler_trainer_diff"] < 1e-4  # sampler and trainer see the same pictures
    asked = {build_task(JOINT).train_question(i).task for i in range(4)}
    assert asked == {"countdown", "countdown_image"}
    before, after = (
        build_state(checkpoint.model_config(p), OptimizerConfig(), ParallelConfig(), stage="x", init_from=p).module
        for p in (seeing / "model", model)
    )
    assert not torch.equal(before.vision.encoder.conv1.weight, after.vision.encoder.conv1.weight)


def test_a_blind_model_is_told_so():
    cfg = checkpoint.model_config(BASE)
    state = build_state(cfg, OptimizerConfig(), ParallelConfig(), stage="x", init_from=BASE)
    engine = LocalEngine(state.module, cfg, Tokenizer.load(BASE), SamplingConfig(), seed=0)
    with pytest.raises(ConfigError, match="r1 captions"):
        engine.generate(CountdownImage().test_questions(1), 1, step=0)
