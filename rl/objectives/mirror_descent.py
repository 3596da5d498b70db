"""Kimi k1.5's online mirror descent (§2.3.2): the regressed optimum of reward minus tau KL to the iteration's policy.

The optimum satisfies r - tau log Z = tau log(p / p_i); the squared difference of both sides, whose gradient is
-2 tau (A grad log p - tau / 2 grad log(p / p_i)^2) with A = r - tau log Z, is what Kimi minimises. tau log Z is the
group's mean reward, Kimi's choice, or its estimate from the group (rl.advantage=log_partition). An iteration is one
RL step: p_i is the policy that it began with, `old_logprobs`, and rl_step gives it a fresh optimiser.
"""

import torch
from torch import Tensor

from rl.objective_config import ObjectiveConfig
from rl.objectives.terms import answer_sums
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def mirror_descent_loss(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> LossOutput:
    """sum over answers of W (tau / 2 l^2 - A l), l = log(p(answer) / p_i(answer)): Kimi's gradient, divided by 2 tau.

    logprobs [batch, seq]; batch.extras: `old_logprobs`, `advantages`, both [batch, seq]. W is the sum of the answer's
    loss_weights, 1 / N under per_answer.

    Example, one answer of weight 1, A = 0.5, tau = 2, l = 0.1: 2 / 2 * 0.01 - 0.05 = -0.04; l = A / tau is the best.
    """
    log_ratio = answer_sums(batch, logprobs - batch.extras["old_logprobs"])
    weight = batch.loss_weights.sum(dim=1)
    weighted = answer_sums(batch, batch.loss_weights * batch.extras["advantages"])  # W A, [batch]
    square = (weight * log_ratio.square()).sum()
    loss = cfg.tau / 2 * square - (weighted * log_ratio).sum()
    with torch.no_grad():
        metrics = {"rl/log_ratio": (weight * log_ratio).sum(), "rl/squared_log_ratio": square.detach()}
    return LossOutput(loss=loss, metrics=metrics)
