"""Truncated importance sampling, where sampler and trainer differ: another engine's rounding, or older weights."""

import torch
from torch import Tensor

from training.step import MicroBatch


def correct_for_sampler(batch: MicroBatch, cap: float) -> None:
    """Weigh each token by min(cap, p_trainer / p_sampler): `advantages` are multiplied by it, in place of the old ones.

    The gradient of an expectation over the sampler's answers becomes that over the trainer's, but for what the cap cuts
    off to bound the variance (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"; verl's rollout_is_threshold, 2 there). GRPO's clipped surrogate is linear in the advantage for factors
    above 0, so this is the same as weighing each token's surrogate. The KL term stays unweighted.

    batch.extras: `old_logprobs` (the trainer's, before the step's updates), `sampler_logprobs` and `advantages`, all
    [batch, seq]; `importance` [batch, seq] is left there.

    Example: sampler log .2, trainer log .5, cap 2: the ratio 2.5 is cut to 2, an advantage of -1 becomes -2.
    """
    extras, masked = batch.extras, batch.loss_weights > 0
    old = extras["old_logprobs"]
    sampler = extras["sampler_logprobs"].to(old.device)
    ratio = torch.where(masked.to(old.device), old - sampler, 0.0).exp()
    extras["importance"] = ratio.clamp(max=cap)
    extras["advantages"] = extras["advantages"].to(old.device) * extras["importance"]


def importance_metrics(batch: MicroBatch, cap: float) -> dict[str, Tensor]:
    """Means over the step's tokens: rl/importance of the weight, rl/importance_capped_frac of those at the cap."""
    importance = batch.extras["importance"]
    return {
        "rl/importance": (batch.loss_weights * importance).sum(),
        "rl/importance_capped_frac": (batch.loss_weights * (importance >= cap)).sum(),
    }
