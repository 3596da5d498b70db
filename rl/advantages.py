"""Group-relative advantages: an answer is judged against its siblings (R1 eq. 3, DSM §4.1.2), or the step's answers."""

import math

import torch
from torch import Tensor

from rl.objective_config import AdvantageKind


def group_advantages(
    rewards: Tensor, kind: AdvantageKind = AdvantageKind.group_std, eps: float = 1e-6, *, tau: float = 1.0
) -> Tensor:
    """Advantage of each answer within its group.

    rewards: [question, group], any float type. kind: any but auto, which RLConfig.baseline resolves. tau: read by
    log_partition. Returns [question, group].

    - group_std: (r - mean) / std of the group, R1 eq. 3; std is the population's (divide by G).
    - group_mean: r - mean, without the std, which otherwise favours questions that are nearly solved or nearly lost.
    - leave_one_out: r_i - mean of the others (RLOO), an unbiased baseline.
    - log_partition: r - tau log mean exp(r / tau), the estimate of tau log Z in Kimi k1.5 §2.3.2; group_mean is its
      limit for large tau.
    - batch_mean: r - mean over all answers of the step, REINFORCE with a baseline.

    A group of equal rewards has zero advantage under each of them but batch_mean.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    tensor([[ 1.0000, -1.0000, -1.0000,  1.0000]])
    """
    if kind is AdvantageKind.batch_mean:
        return torch.where(zero_variance(rewards.flatten()[None]), 0.0, rewards - rewards.mean())
    if kind is AdvantageKind.log_partition:
        log_z = torch.logsumexp(rewards / tau, dim=1, keepdim=True) - math.log(rewards.shape[1])
        return torch.where(zero_variance(rewards)[:, None], 0.0, rewards - tau * log_z)
    mean = rewards.mean(dim=1, keepdim=True)
    # Exactly zero where all scored the same: rounding of the mean must not make such a group count.
    centred = torch.where(zero_variance(rewards)[:, None], 0.0, rewards - mean)
    if kind is AdvantageKind.group_mean:
        return centred
    if kind is AdvantageKind.leave_one_out:
        group_size = rewards.shape[1]
        return centred * (group_size / (group_size - 1))
    std = centred.pow(2).mean(dim=1, keepdim=True).sqrt()
    return torch.where(std > eps, centred / std.clamp_min(eps), torch.zeros_like(centred))


def zero_variance(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """Groups that teach nothing: every answer scored the same. rewards [question, group] -> bool [question]."""
    return (rewards.amax(dim=1) - rewards.amin(dim=1)) < eps
