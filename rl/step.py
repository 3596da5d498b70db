"""One RL step (DSM algorithm 1; R1 §2.2.1): ask, answer, score, compare, update by the objective that is set."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from rl.advantages import group_advantages, zero_variance
from rl.batch import keep_trainer_logprobs, minibatches, rows_of
from rl.config import OldLogprobs, PartialLoss, RLConfig
from rl.critic import judge, learn
from rl.importance import correct_for_sampler, importance_metrics
from rl.metrics import rollout_metrics, staleness
from rl.mismatch import mismatch_metrics
from rl.objective_config import ObjectiveName
from rl.objectives.grpo import grpo_loss
from rl.objectives.mirror_descent import mirror_descent_loss
from rl.objectives.ppo import ppo_loss
from rl.objectives.reinforce import reinforce_loss
from rl.objectives.rloo import rloo_loss
from rl.policy import Reference
from rl.questions import Questions
from rl.rewards.base import Reward, RewardConfig, score_groups
from rl.rollout.ahead import OneStepOff
from rl.rollout.engine import RolloutEngine
from rl.rollout.partial import PartialRollouts
from rl.tasks.base import Task
from rl.types import Completion, Group, Question
from training import parallel
from training.losses import LossOutput
from training.optimizer import forget
from training.schedules import Now
from training.state import TrainState
from training.step import MicroBatch, token_logprobs, train_step

LOSSES = {
    ObjectiveName.grpo: grpo_loss,
    ObjectiveName.ppo: ppo_loss,
    ObjectiveName.rloo: rloo_loss,
    ObjectiveName.reinforce: reinforce_loss,
    ObjectiveName.mirror_descent: mirror_descent_loss,
}


class Phases:
    """Seconds spent in each phase of a step, as time/<phase>_s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[f"time/{name}_s"] = time.perf_counter() - start


def rl_step(
    state: TrainState,
    engine: RolloutEngine,
    questions: Questions,
    reference: Reference | None,
    task: Task,
    reward: RewardConfig,
    cfg: RLConfig,
    now: Now,
    *,
    seed: int,
    ahead: OneStepOff | None = None,
    partial: PartialRollouts | None = None,
    more_rewards: Sequence[Reward] = (),
) -> tuple[dict[str, float], list[Group]]:
    """One step: cfg.questions_per_step x cfg.group_size answers, then cfg.minibatches updates. -> metrics, groups.

    state.beside holds PPO's value model as `critic`. ahead: has this step's answers written during the one before, and
    takes the order for the next. partial: gives the groups that are complete, whenever they were asked. more_rewards:
    what is paid beside the rules in this step (rl/rewards/build.py).
    """
    phase, step, critic = Phases(), state.step, state.beside.get("critic")
    with phase("rollout"):
        asked, answers, told = _ask(state, engine, questions, cfg, ahead, partial)
        groups = [Group(question=q, completions=c) for q, c in zip(asked, answers, strict=True)]

    with phase("reward"):
        score_groups(groups, task, reward, more_rewards, progress=step / cfg.steps)
        rewards = torch.tensor([[c.reward for c in g.completions] for g in groups], dtype=torch.float64)
        advantages = group_advantages(rewards, cfg.baseline, tau=cfg.objective.tau)  # R1 eq. 3
        if not cfg.negative_gradients:
            advantages = advantages.clamp(min=0.0)
        for group, row in zip(groups, advantages.tolist(), strict=True):
            for completion, advantage in zip(group.completions, row, strict=True):
                completion.advantage = advantage
        metrics = rollout_metrics(groups) | {"rl/zero_variance_frac": zero_variance(rewards).double().mean().item()}
        metrics |= told | {"rl/staleness": staleness(groups, state.updates)}

    rows = rows_of(
        groups,
        [engine.prompt_ids(q) for q in asked],
        drop_zero_variance=cfg.drops_zero_variance,
        last_segment=cfg.rollout.partial_loss is PartialLoss.last,
    )
    batches = minibatches(
        rows,
        cfg.minibatches,
        weighting=cfg.loss_weighting,
        rng=np.random.default_rng([seed, step]),
        rank=parallel.data_rank(),
        world=parallel.data_size(),
        max_tokens=cfg.micro_batch_tokens,
        pad_id=engine.pad_id,
    )

    with phase("logprobs"):
        everything = [micro_batch for minibatch in batches for micro_batch in minibatch]
        for key, logprobs in _frozen_logprobs(state, reference, everything, cfg).items():
            for micro_batch, value in zip(everything, logprobs, strict=True):
                micro_batch.extras[key] = value
        if cfg.old_logprobs is OldLogprobs.trainer:
            keep_trainer_logprobs(rows, everything, [b.extras["old_logprobs"] for b in everything])
    if critic is not None:
        with phase("values"):
            metrics |= judge(critic, everything, cfg)
    if cfg.importance_cap > 0:
        for micro_batch in everything:
            correct_for_sampler(micro_batch, cfg.importance_cap)

    with phase("update"):
        if cfg.objective.name is ObjectiveName.mirror_descent:
            forget(state.optimizer)  # K §2.3.2: each iteration is a problem of its own
        updates = []
        for micro_batches in batches:
            updates.append(train_step(state, micro_batches, lambda b, lp: _loss(b, lp, cfg), now))
            if critic is not None:
                updates[-1] |= learn(critic, micro_batches, cfg.ppo, now)
    metrics |= _mean(updates)

    with phase("sync"):
        if ahead is None:  # else the engine is at work with the old ones
            engine.load_weights(state.module, version=state.updates)
    questions.update(groups)
    return metrics | phase.seconds, groups


def _ask(
    state: TrainState,
    engine: RolloutEngine,
    questions: Questions,
    cfg: RLConfig,
    ahead: OneStepOff | None,
    partial: PartialRollouts | None,
) -> tuple[list[Question], list[list[Completion]], dict[str, float]]:
    """The step's questions, their answers, the engine's metrics; one step off, the next step's are ordered."""
    if partial is not None:
        return partial.generate(questions.next(cfg.questions_per_step), cfg.group_size, step=state.step)
    taken = ahead.take() if ahead is not None else None
    if ahead is not None and engine.version != state.updates:
        engine.load_weights(state.module, version=state.updates)
    if taken is None:
        asked = questions.next(cfg.questions_per_step)
        taken = asked, engine.generate(asked, cfg.group_size, step=state.step), engine.metrics()
    if ahead is not None and state.step + 1 < cfg.steps:
        ahead.order(questions.next(cfg.questions_per_step), cfg.group_size, step=state.step + 1)
    return taken


def _frozen_logprobs(
    state: TrainState, reference: Reference | None, micro_batches: list[MicroBatch], cfg: RLConfig
) -> dict[str, list[torch.Tensor]]:
    """Logprobs that stay fixed during the step's updates: the old policy's, and the reference's where KL is on."""
    frozen = {}
    if cfg.old_logprobs is OldLogprobs.trainer:
        frozen["old_logprobs"] = token_logprobs(state.model, micro_batches)
    else:
        frozen["old_logprobs"] = [b.extras["sampler_logprobs"] for b in micro_batches]
    if reference is not None:
        frozen["ref_logprobs"] = reference.logprobs(state.model, micro_batches)
    return frozen


def _loss(batch: MicroBatch, token_loss: torch.Tensor, cfg: RLConfig) -> LossOutput:
    """The objective on logprobs = -token_loss, with the trainer-sampler mismatch measured beside it."""
    out = LOSSES[cfg.objective.name](batch, -token_loss, cfg.objective)
    out.metrics |= mismatch_metrics(batch, -token_loss)
    if cfg.importance_cap > 0:
        out.metrics |= importance_metrics(batch, cfg.importance_cap)
    return out


def _mean(updates: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the step's updates; the trainer-sampler mismatch is the first one's, made with the same weights."""
    if not updates:  # every group scored the same: nothing to learn from in this step
        return {}
    metrics = {key: float(np.mean([u[key] for u in updates])) for key in updates[0]}
    return metrics | {key: value for key, value in updates[0].items() if key.startswith("rl/sampler_trainer")}
