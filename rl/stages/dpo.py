"""DPO: preference pairs -> a policy that prefers as they do, held by the model it starts from (Rafailov et al. 2023).

No answers are sampled but in evaluations; the reference is the base, so a checkpoint need not hold it.
"""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from infra.tracking import Tracker
from modeling.config import Fp8, Modules
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.dpo_config import DPOConfig
from rl.evaluate import EvaluateConfig, evaluate, write_answers
from rl.memory import Activations, memory_by_part
from rl.objectives.dpo import dpo_loss
from rl.policy import Reference
from rl.preferences import PairOrder, pair_batches, tokenize
from rl.rewards.base import RewardConfig
from rl.rollout.local import LocalEngine
from rl.tasks.base import TaskConfig
from rl.tasks.mix import build_task
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig
from training.data.pairs import read_pairs, split_pairs
from training.loop import run_loop
from training.losses import LossOutput
from training.micro_batch import MicroBatch
from training.schedules import Schedule
from training.state import TrainState, build_state
from training.step import token_logprobs, train_step


def run(
    base: Path,
    *,
    parallel_cfg: ParallelConfig,
    task_cfg: TaskConfig,
    reward: RewardConfig,
    sampling: SamplingConfig,
    evaluation: EvaluateConfig,
    cfg: DPOConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
    modules: Modules = Modules.auto,
    fp8: Fp8 = Fp8.none,
) -> Path:
    """Train the model in folder `base` on the pairs of cfg.data; -> run_dir/model (Hugging Face layout).

    Every rank calls it, after parallel.init. A stage cut short goes on from its last checkpoint. The other arguments
    are those of rl.stages.zero.run; task, reward and sampling are for evaluations. Raises ConfigError or R1Error for
    pairs that cannot be used, before the model is built.
    """
    base = checkpoint.resolve(base)
    model_cfg, tokenizer = replace(checkpoint.model_config(base, modules), fp8=fp8), Tokenizer.load(base)
    pairs = read_pairs(Path(cfg.data), "dpo.data", max_bad=cfg.max_bad)
    parts = split_pairs(pairs, cfg.held_out, "dpo.held_out") if cfg.held_out > 0 else (pairs, [])
    train, unseen = (tokenize(part, tokenizer, model_cfg.max_position_embeddings) if part else [] for part in parts)
    parallel.on_main(lambda: tokenizer.save(run_dir))  # a checkpoint of the run can be used alone
    task = build_task(task_cfg, tokenizer)
    order = PairOrder(train, seed)
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage="dpo", data=order, init_from=base)
    reference = Reference(state.module)
    batches = partial(
        pair_batches,
        rank=parallel.data_rank(),
        world=parallel.data_size(),
        max_tokens=cfg.micro_batch_tokens,
        pad_id=tokenizer.pad_id,
    )
    held_out = batches(unseen)
    _refer(reference, state, held_out)
    total = math.ceil(cfg.epochs * len(train) / cfg.pairs_per_step)
    schedule = Schedule(cfg.schedule, total=total)
    activations: Activations | None = Activations(state)

    def loss(batch: MicroBatch, token_loss: Tensor) -> LossOutput:
        return dpo_loss(batch, -token_loss, cfg.beta, cfg.nll_coef)

    def step(state: TrainState) -> dict[str, float]:
        nonlocal activations
        micro_batches = batches(order.next(cfg.pairs_per_step))
        _refer(reference, state, micro_batches)
        with activations.measured() if activations else nullcontext():
            metrics = train_step(state, micro_batches, loss, schedule.at(state.step))
        if activations:  # once in a stage is enough
            metrics |= memory_by_part(state, reference, activations)
            activations = None
        return metrics

    def small_evaluation(state: TrainState) -> dict[str, float]:
        metrics = _held_out_metrics(state, held_out, cfg)
        if evaluation.curve_questions > 0:
            engine = LocalEngine(state.module, model_cfg, tokenizer, sampling, seed=seed, max_rows=cfg.rollout_rows)
            asked = dict(questions=evaluation.curve_questions, samples=evaluation.curve_samples)
            result = evaluate(engine, task, reward, **asked)
            path = run_dir / "evaluations" / f"step_{state.step:06d}.parquet"
            parallel.on_main(lambda: write_answers(path, result, state.step, tokenizer))
            metrics |= result.metrics(task.name)
        return metrics

    run_loop(
        state,
        LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
        name="dpo",
        step_fn=step,
        run_dir=run_dir,
        config=config,
        tracker=tracker,
        total_steps=total,
        evaluate_fn=small_evaluation,
        shown=("train/loss", "dpo/accuracy"),
    )
    return checkpoint.export(state, run_dir / "model", tokenizer)


def _refer(reference: Reference, state: TrainState, micro_batches: list[MicroBatch]) -> None:
    """Set the reference's logprobs in the extras."""
    for batch, logprobs in zip(micro_batches, reference.logprobs(state.model, micro_batches), strict=True):
        batch.extras["ref_logprobs"] = logprobs


def _held_out_metrics(state: TrainState, held_out: list[MicroBatch], cfg: DPOConfig) -> dict[str, float]:
    """eval/dpo/loss and eval/dpo/accuracy on the pairs that are not trained on; empty where there are none."""
    if not held_out:
        return {}
    loss = accuracy = 0.0
    for batch, logprobs in zip(held_out, token_logprobs(state.model, held_out), strict=True):
        out = dpo_loss(batch.to(logprobs.device), logprobs, cfg.beta)
        loss, accuracy = loss + float(out.loss), accuracy + float(out.metrics["dpo/accuracy"])
    copies = parallel.world() // parallel.data_size()  # ranks that hold the same share of the data
    told = [sum(column) / copies for column in zip(*parallel.gather_objects((loss, accuracy)), strict=True)]
    return dict(zip(("eval/dpo/loss", "eval/dpo/accuracy"), told, strict=True))
