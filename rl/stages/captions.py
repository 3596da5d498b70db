"""Eyes for a language model: SFT on captions (Kimi k1.5 §2.1, §2.2: captions first, then images and text together).

The encoder has learned to read (rl/stages/reading.py) or starts from published weights (captions.encoder); it and its
projector are trained together with the language model. Three kinds of examples: a picture and its caption, the question
in words, as the first line of the thinking; the same with a search behind it as the base's corpus has it, right or
wrong; and questions in text, lest the model forget how to read them.

Departs from K §2.1: some thousand captions of one kind of picture.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infra.tracking import Tracker
from modeling import hf, hub
from modeling.config import ModelConfig, Modules
from modeling.hf_vision import load_encoder
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.rollout.local import LocalEngine
from rl.stages import reading
from rl.stages.config import CaptionsConfig
from rl.tasks.base import TaskConfig, prompter
from rl.tasks.countdown import Countdown
from rl.tasks.countdown_image import CountdownImage
from rl.types import Question
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig, SFTConfig
from training.data.corpus import CorpusConfig, searched
from training.data.countdown import question_text
from training.data.packing import by_length_batches
from training.export import as_folder
from training.loop import run_loop
from training.losses import next_token_loss
from training.schedules import Schedule
from training.sft import Epochs
from training.state import TrainState, build_state
from training.step import MicroBatch, train_step
from training.whole import build_whole

CAPTION_TOKENS = 32
"Room for a caption when a picture is read."


@dataclass(frozen=True, slots=True)
class Example:
    """What a model reads and what it learns to write behind it."""

    question: Question
    response: str
    ends: bool
    "Whether the answer is over with it; a caption alone is the beginning of one."


def example(cfg: CaptionsConfig, corpus: CorpusConfig, pictures: Countdown, words: Countdown, i: int) -> Example:
    """The i-th example, over training questions; depends on the arguments only."""
    rng = random.Random(f"captions/{pictures.seed}/{i}")
    task = words if rng.random() < cfg.share_text else pictures
    question = task.train_question(i)
    caption = "" if task is words else f"{caption_of(question)}\n"
    if task is pictures and rng.random() >= cfg.share_worked:
        return Example(question, f"<think>\n{caption}", ends=False)
    thinking, answer = searched(corpus, rng, tuple(question.meta["numbers"]), question.meta["target"])
    return Example(question, f"<think>\n{caption}{thinking}</think>\n<answer>{answer}</answer>", ends=True)


def caption_of(question: Question) -> str:
    """What the picture says: `Make 19 from 3, 5, 8.`"""
    return question_text(tuple(question.meta["numbers"]), question.meta["target"])


def run(
    start: Path,
    *,
    parallel_cfg: ParallelConfig,
    task_cfg: TaskConfig,
    corpus: CorpusConfig,
    captions: CaptionsConfig,
    cfg: SFTConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
    modules: Modules = Modules.auto,
) -> Path:
    """Give the model in folder `start` the encoder captions.vision and train both; -> run_dir/model.

    Every rank calls it, after parallel.init. A run cut short goes on from its last checkpoint. Logs
    eval/caption_accuracy, the share of held-out pictures whose caption is right to the letter, read greedily.
    """
    start = checkpoint.resolve(start)
    before = checkpoint.model_config(start, modules)
    model_cfg, tokenizer = replace(before, vision=captions.vision), Tokenizer.load(start)
    parallel.on_main(lambda: tokenizer.save(run_dir))
    if before.vision is not captions.vision:
        start = as_folder(start, run_dir / "start")
    template = prompter(task_cfg.template, tokenizer)
    pictures, words = (kind(seed=task_cfg.seed, template=template) for kind in (CountdownImage, Countdown))
    if captions.reading_steps and before.vision is not captions.vision:
        start = reading.with_reading_eyes(
            start, model_cfg, tokenizer, pictures, captions.reading_steps, run_dir / "reads"
        )
    if captions.encoder:
        start = with_encoder(start, model_cfg, hub.resolve("captions.encoder", captions.encoder), run_dir / "sees")
    epochs = Epochs(captions.examples, cfg.batch_size, seed)
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage="captions", data=epochs, init_from=start)
    greedy = SamplingConfig(temperature=0.0, max_response_tokens=CAPTION_TOKENS)
    engine = LocalEngine(state.module, model_cfg, tokenizer, greedy, seed=seed)
    total = cfg.epochs * epochs.steps
    schedule = Schedule(cfg.schedule, total=total)

    def step(state: TrainState) -> dict[str, float]:
        chosen = [example(captions, corpus, pictures, words, i) for i in epochs.next()]
        return train_step(state, micro_batches(chosen, engine, cfg), next_token_loss, schedule.at(state.step))

    def evaluation(state: TrainState) -> dict[str, float]:
        engine.load_weights(state.module, version=state.updates)
        asked = pictures.test_questions(captions.evaluate_images)
        answers = engine.generate(asked, 1, step=-1)
        right = [a.text.startswith(f"<think>\n{caption_of(q)}\n") for q, (a,) in zip(asked, answers, strict=True)]
        return {"eval/caption_accuracy": float(np.mean(right))}

    run_loop(
        state,
        LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
        name="captions",
        step_fn=step,
        run_dir=run_dir,
        config=config,
        tracker=tracker,
        total_steps=total,
        evaluate_fn=evaluation if captions.evaluate_images else None,
    )
    return checkpoint.export(state, run_dir / "model", tokenizer)


def with_encoder(start: Path, model_cfg: ModelConfig, encoder: Path, folder: Path) -> Path:
    """The model in `start` with an encoder's published weights, written to `folder`; -> folder. Every rank calls."""
    if not parallel.broadcast_object((folder / hf.CONFIG).exists()):
        module = build_whole(model_cfg)
        hf.load_pretrained(module, model_cfg, start)
        load_encoder(module.vision.encoder, encoder)
        parallel.on_main(lambda: hf.save_pretrained(module, model_cfg, folder))
    return folder


def micro_batches(examples: list[Example], engine: LocalEngine, cfg: SFTConfig) -> list[MicroBatch]:
    """This rank's share of a step's examples; weights are 1 / (response tokens of all of them), 0 on prompts."""
    tokenizer = engine.tokenizer
    prompts = [engine.prompt_ids(e.question) for e in examples]
    ends = [[tokenizer.eos_id] if e.ends else [] for e in examples]
    return by_length_batches(
        [
            [*prompt, *tokenizer.encode(e.response), *end]
            for prompt, e, end in zip(prompts, examples, ends, strict=True)
        ],
        prompts=[len(prompt) for prompt in prompts],
        images=[e.question.pixels for e in examples],
        rank=parallel.data_rank(),
        world=parallel.data_size(),
        max_tokens=cfg.micro_batch_tokens,
        pad_id=tokenizer.pad_id,
    )
