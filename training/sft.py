"""Supervised fine-tuning: conversations -> the loss of the responses -> a model (R1 §2.3.1, §2.3.3, §2.4)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from infra.errors import ConfigError
from infra.progress import say
from infra.tracking import Tracker
from modeling.config import Fp8, Modules
from modeling.tokenizer import Tokenizer
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig, Rows, SFTConfig
from training.data import chat
from training.data.packing import by_length_batches, packed_batches
from training.loop import run_loop
from training.losses import next_token_loss
from training.schedules import Schedule
from training.state import TrainState, build_state
from training.step import MicroBatch, token_logprobs, train_step

Encoded = tuple[list[int], int]
"(token ids, how many of them are the prompt's)."


class Epochs:
    """Which rows a step takes: each row once an epoch, in an order that depends on (seed, epoch) only."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed, self.position = rows, batch_size, seed, 0

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last may have fewer rows."""
        return math.ceil(self.rows / self.batch_size)

    def next(self) -> list[int]:
        """Indices of the next step's rows."""
        epoch, step = divmod(self.position, self.steps)
        self.position += 1
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return order[step * self.batch_size : (step + 1) * self.batch_size].tolist()

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def run(
    start: Path,
    data: Path,
    *,
    parallel_cfg: ParallelConfig,
    cfg: SFTConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
    held_out: Iterable[str] = (),
    test_questions: Sequence[str] = (),
    stage: str = "sft",
    modules: Modules = Modules.auto,
    fp8: Fp8 = Fp8.none,
) -> Path:
    """Fine-tune the model in folder `start` on the conversations in `data`; -> run_dir/model, Hugging Face layout.

    Every rank calls it, after parallel.init. A run cut short goes on from its last checkpoint. held_out: test
    questions, which are never trained on; test_questions: the same without templates, looked for inside of texts.
    stage: whose checkpoints they are. Raises ConfigError for unusable data.
    """
    start = checkpoint.resolve(start)
    model_cfg, tokenizer = replace(checkpoint.model_config(start, modules), fp8=fp8), Tokenizer.load(start)
    parallel.on_main(lambda: tokenizer.save(run_dir))  # a checkpoint of the run can be used alone
    conversations = chat.without_held_out(chat.read(data, max_bad=cfg.max_bad), held_out)
    conversations = chat.decontaminated(conversations, test_questions)
    rows, unseen = split(_fitting(conversations, tokenizer, model_cfg.max_position_embeddings), cfg.evaluate_rows)
    epochs = Epochs(len(rows), cfg.batch_size, seed)
    total = cfg.epochs * epochs.steps
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage=stage, data=epochs, init_from=start)
    schedule = Schedule(cfg.schedule, total=total)
    unseen_batches = micro_batches(unseen, cfg, tokenizer.pad_id) if unseen else []

    def step(state: TrainState) -> dict[str, float]:
        batches = micro_batches([rows[i] for i in epochs.next()], cfg, tokenizer.pad_id)
        return train_step(state, batches, next_token_loss, schedule.at(state.step))

    def evaluation(state: TrainState) -> dict[str, float]:
        logprobs = token_logprobs(state.model, unseen_batches)
        pairs = zip(unseen_batches, logprobs, strict=True)
        loss = -sum(float((batch.loss_weights * lp.cpu()).sum()) for batch, lp in pairs)
        return {"eval/loss": sum(parallel.gather_objects(loss)) / (parallel.world() // parallel.data_size())}

    run_loop(
        state,
        LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
        name=stage,
        step_fn=step,
        run_dir=run_dir,
        config=config,
        tracker=tracker,
        total_steps=total,
        evaluate_fn=evaluation if unseen else None,
    )
    return checkpoint.export(state, run_dir / "model", tokenizer)


def _fitting(conversations: Sequence[chat.Conversation], tokenizer: Tokenizer, longest: int) -> list[Encoded]:
    """The conversations as tokens; those longer than the model reads are left out, and counted aloud.

    Raises ConfigError where none is left.
    """
    encoded = [chat.encode(conversation, tokenizer) for conversation in conversations]
    kept = [pair for pair in encoded if len(pair[0]) <= longest]
    if not kept:
        problem = f"none of {len(encoded)} conversations fits {longest} tokens"
        raise ConfigError("sft.data", "", problem, "give shorter ones, or a model of longer context")
    if len(kept) < len(encoded) and parallel.is_main():
        say(f"{len(encoded) - len(kept)} of {len(encoded)} conversations are longer than {longest} tokens: left out")
    return kept


def split(rows: list[Encoded], wanted: int) -> tuple[list[Encoded], list[Encoded]]:
    """-> (rows to train on, rows to measure on): `wanted` of them, at most a tenth, drawn by a fixed seed."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    taken = set(order[: min(wanted, len(rows) // 10)])
    return [rows[i] for i in range(len(rows)) if i not in taken], [rows[i] for i in sorted(taken)]


def micro_batches(rows: Sequence[Encoded], cfg: SFTConfig, pad_id: int) -> list[MicroBatch]:
    """This rank's share of the rows; weights are 1 / (response tokens of all of them), 0 on prompts."""
    documents, prompts = [ids for ids, _ in rows], [prompt for _, prompt in rows]
    share = dict(
        rank=parallel.data_rank(), world=parallel.data_size(), max_tokens=cfg.micro_batch_tokens, pad_id=pad_id
    )
    if cfg.rows is Rows.packed:
        return packed_batches(documents, prompts=prompts, row_tokens=cfg.row_tokens, **share)
    return by_length_batches(documents, prompts=prompts, **share)
