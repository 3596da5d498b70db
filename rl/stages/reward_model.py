"""A reward model: a language model's network with one number for its head, trained on preference pairs (R1 §2.3.4).

Helpfulness reads the summary alone, harmlessness the whole response (reward_model.reads). Departs from R1: no margin
between scores is asked for, the loss is Bradley-Terry's alone.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from infra.tracking import Tracker
from modeling.config import Head, Modules
from modeling.tokenizer import Tokenizer
from rl.objectives.bradley_terry import bradley_terry_loss, pair_accuracy
from rl.reward_model_config import Reads, RewardModelConfig
from rl.reward_model_data import PairRows, PairStream, answer_scores, encode_pairs, pair_batches
from rl.rewards.card import CARD, Card
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig
from training.data.pairs import Pair, read_pairs, split_pairs
from training.data.preferences import Preference, made_pairs
from training.export import as_folder
from training.loop import run_loop
from training.schedules import Schedule
from training.state import TrainState, build_state
from training.step import token_scores, train_step


def run(
    *,
    parallel_cfg: ParallelConfig,
    cfg: RewardModelConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
    modules: Modules = Modules.auto,
) -> Path:
    """Train on cfg.pairs from cfg.checkpoint; -> run_dir/model, a folder that reward.helpful or reward.harmless takes.

    It is a Hugging Face folder (transformers' ...ForSequenceClassification with one label) with its card. Every rank
    calls it, after parallel.init. A run cut short goes on from its last checkpoint.
    """
    pairs = pairs_of(cfg, seed)
    parts = split_pairs(pairs, cfg.held_out, "reward_model.held_out")
    start = as_folder(Path(cfg.checkpoint), run_dir / "start")
    tokenizer = Tokenizer.load(start)
    parallel.on_main(lambda: tokenizer.save(run_dir))
    model_cfg = checkpoint.model_config(start, modules)
    model_cfg = dataclasses.replace(model_cfg, head=Head.score, num_nextn_predict_layers=0)
    limit = model_cfg.max_position_embeddings
    train, held_out = (encode_pairs(tokenizer, part, cfg.reads, limit) for part in parts)
    stream = PairStream(train, seed=seed)
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage="reward_model", data=stream, init_from=start)
    total = cfg.epochs * stream.steps(cfg.pairs_per_step)
    schedule = Schedule(cfg.schedule, total=total)
    share = dict(
        rank=parallel.data_rank(),
        world=parallel.data_size(),
        max_tokens=cfg.micro_batch_tokens,
        pad_id=tokenizer.pad_id,
    )

    def step(state: TrainState) -> dict[str, float]:
        batches = pair_batches(stream.next(cfg.pairs_per_step), **share)
        return train_step(state, batches, bradley_terry_loss, schedule.at(state.step))

    def evaluation(state: TrainState) -> dict[str, float]:
        scores = score_pairs(state, held_out, share)
        accuracy = pair_accuracy(scores[:, 0] - scores[:, 1]).mean().item()
        card = Card(
            reads=cfg.reads,
            mean=scores.mean().item(),
            std=scores.std(correction=0).item(),
            pair_accuracy=accuracy,
            train_pairs=len(train),
            held_out_pairs=len(held_out),
        )
        parallel.on_main(lambda: card.write(run_dir))
        return {"eval/reward_model/pair_accuracy": accuracy, "eval/reward_model/score_std": card.std}

    run_loop(
        state,
        LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
        name="reward model",
        step_fn=step,
        run_dir=run_dir,
        config=config,
        tracker=tracker,
        total_steps=total,
        evaluate_fn=evaluation,
        shown=("train/loss", "reward_model/accuracy"),
    )
    model = checkpoint.export(state, run_dir / "model", tokenizer)
    finish(run_dir)
    return model


def finish(run_dir: Path) -> None:
    """Put the card beside the exported weights; again where a kill came in between. Every rank calls it."""

    def put() -> None:
        there, card = (run_dir / "model" / "config.json").exists(), run_dir / "model" / CARD
        if there and (run_dir / CARD).exists() and not card.exists():
            card.write_bytes((run_dir / CARD).read_bytes())

    parallel.on_main(put)


def pairs_of(cfg: RewardModelConfig, seed: int) -> list[Pair]:
    """The pairs of cfg.pairs, or made ones."""
    if cfg.pairs:
        return read_pairs(Path(cfg.pairs), "reward_model.pairs", max_bad=cfg.max_bad)
    kind = Preference.helpful if cfg.reads is Reads.summary else Preference.harmless
    return made_pairs(kind, cfg.made_pairs, seed=seed)


def score_pairs(state: TrainState, pairs: list[PairRows], share: dict[str, int]) -> torch.Tensor:
    """[pairs, 2] scores of the better and the worse answers, in an order of their own. Every rank calls it."""
    batches = pair_batches(pairs, **share)
    found = []
    for batch, scores in zip(batches, token_scores(state.model, batches), strict=True):
        real = batch.loss_weights.sum(1) > 0
        found.append(answer_scores(batch, scores.cpu())[real].view(-1, 2).numpy())
    shares = parallel.gather_objects((parallel.data_rank(), np.concatenate(found)))
    by_rank = {rank: part for rank, part in shares}  # ranks of one data share hold the same
    return torch.from_numpy(np.concatenate([by_rank[rank] for rank in sorted(by_rank)])).double()
