"""PPO's value model within the RL step: it judges every prefix before the update, and learns beside the policy.

DSM §4.1.1 and fig. 4: the network that GRPO does without. It is a TrainState of its own, a network with a scalar head
(modeling/score_head.py).
"""

from dataclasses import replace

import torch
from torch import Tensor

from rl.config import RLConfig
from rl.gae import gae, token_rewards
from rl.objective_config import PPOConfig
from rl.objectives.ppo import value_loss
from training import parallel
from training.losses import LossOutput
from training.micro_batch import MicroBatch
from training.schedules import Now
from training.state import TrainState
from training.step import token_logprobs, train_step


def judge(critic: TrainState, micro_batches: list[MicroBatch], cfg: RLConfig) -> dict[str, float]:
    """Set `old_values`, `returns` and `advantages` [batch, seq] in the extras of all the step's micro-batches.

    Read there: `scores` [batch], `old_logprobs`, and `ref_logprobs` where the KL is in the reward. Every rank calls it
    with its share. Returns rl/explained_variance, the share of the returns' variance that the values knew, and rl/kl.
    """
    ppo, kl, tokens = cfg.ppo, 0.0, []
    for batch, negated in zip(micro_batches, token_logprobs(critic.model, micro_batches), strict=True):
        extras, values = batch.extras, -negated
        mask = (batch.loss_weights > 0).to(values.device)
        reference = extras["ref_logprobs"] if cfg.objective.kl_in_reward and cfg.objective.kl_coef > 0 else None
        old = extras["old_logprobs"].to(values.device)
        rewards = token_rewards(extras["scores"].to(values.device), old, reference, mask, cfg.objective.kl_coef)
        advantages, returns = gae(rewards, values, mask, ppo.gamma, ppo.gae_lambda)
        extras |= {"old_values": torch.where(mask, values, 0.0), "returns": returns, "advantages": advantages}
        tokens.append((advantages[mask], returns[mask]))
        kl += float((old - reference)[mask].sum()) if reference is not None else 0.0

    count, mean, variance = _moments([advantages for advantages, _ in tokens])
    _, _, spread = _moments([returns for _, returns in tokens])
    if ppo.whiten:
        for batch in micro_batches:
            advantages = batch.extras["advantages"]
            whitened = (advantages - mean) * (variance + 1e-8) ** -0.5
            batch.extras["advantages"] = torch.where((batch.loss_weights > 0).to(advantages.device), whitened, 0.0)
    metrics = {"rl/explained_variance": 1 - variance / spread} if spread > 0 else {}
    if cfg.objective.kl_in_reward and cfg.objective.kl_coef > 0:
        metrics["rl/kl"] = sum(parallel.gather_objects(kl)) / _copies() / max(count, 1.0)
    return metrics


def learn(critic: TrainState, micro_batches: list[MicroBatch], cfg: PPOConfig, now: Now) -> dict[str, float]:
    """One update of the value model. -> rl/value_loss, rl/value_grad_norm, rl/value and rl/value_clip_frac."""

    def loss(batch: MicroBatch, values: Tensor) -> LossOutput:
        return value_loss(batch, values, cfg.clip_value)

    done = train_step(critic, micro_batches, loss, replace(now, mtp_lambda=0.0))
    told = {"rl/value_loss": done["train/loss"], "rl/value_grad_norm": done["train/grad_norm"]}
    return told | {key: value for key, value in done.items() if key.startswith("rl/")}


def _moments(parts: list[Tensor]) -> tuple[float, float, float]:
    """Number, mean and unbiased variance of all ranks' values; (0, 0, 0) where there are none."""
    values = torch.cat(parts).double() if parts else torch.zeros(0, dtype=torch.float64)
    shares = parallel.gather_objects((len(values), values.sum().item(), values.square().sum().item()))
    count, total, squares = (sum(column) / _copies() for column in zip(*shares, strict=True))
    mean = total / count if count else 0.0
    return count, mean, max(0.0, squares - count * mean**2) / max(count - 1, 1.0)


def _copies() -> int:
    """Ranks that hold the same share of the data."""
    return parallel.world() // parallel.data_size()
