"""What several objectives are made of: the clipped surrogate, the k3 penalty, sums over an answer."""

import torch
from torch import Tensor

from rl.objective_config import ObjectiveConfig
from training.micro_batch import MicroBatch


def clipped_surrogate(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """-sum of w min(ratio A, clip(ratio) A) over tokens (Schulman et al. 2017 eq. 7; DSM eq. 1 and 3), and its metrics.

    logprobs [batch, seq]; batch.extras: `old_logprobs`, `advantages` [batch, seq]; w = batch.loss_weights.

    Example, one token of weight 1, advantage 1, old logprob 0, logprob log(1.5), clip 0.2: the ratio 1.5 is clipped to
    1.2, so the loss is -1.2 and its gradient is zero.
    """
    weights, advantages = batch.loss_weights, batch.extras["advantages"]
    log_ratio = torch.where(weights > 0, logprobs - batch.extras["old_logprobs"], 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    with torch.no_grad():
        was_clipped = (ratio * advantages > clipped * advantages).float()
        metrics = {
            "rl/clip_frac": (weights * was_clipped).sum(),
            "rl/ratio": (weights * ratio).sum(),
            "rl/policy_kl": (weights * (ratio - 1 - log_ratio)).sum(),
        }
    return loss, metrics


def k3_penalty(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """kl_coef times the weighted mean of r - log r - 1, r = p_ref / p: unbiased and never negative (DSM eq. 4).

    batch.extras: `ref_logprobs` [batch, seq], where kl_coef > 0; else zero and no metric.
    """
    if cfg.kl_coef == 0:
        return logprobs.new_zeros(()), {}
    ref_log_ratio = torch.where(batch.loss_weights > 0, batch.extras["ref_logprobs"] - logprobs, 0.0)
    kl = (batch.loss_weights * (ref_log_ratio.exp() - ref_log_ratio - 1)).sum()
    return cfg.kl_coef * kl, {"rl/kl": kl.detach()}


def answer_sums(batch: MicroBatch, values: Tensor) -> Tensor:
    """Sum of values [batch, seq] over each row's response tokens: [batch]. A rank trains whole rows."""
    return torch.where(batch.loss_weights > 0, values, 0.0).sum(dim=1)
