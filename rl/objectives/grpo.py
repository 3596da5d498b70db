"""GRPO: clipped ratio with a KL penalty in the loss (DSM eq. 3-4; R1 eq. 1-2)."""

import torch
from torch import Tensor

from rl.config import GRPOConfig
from training.losses import LossOutput
from training.step import MicroBatch


def grpo_loss(batch: MicroBatch, logprobs: Tensor, cfg: GRPOConfig) -> LossOutput:
    """GRPO's loss on one micro-batch.

    logprobs: [batch, seq], the policy's, of each label token. batch.extras holds `old_logprobs` and `advantages`
    (and `ref_logprobs` where kl_coef > 0), all [batch, seq]; batch.loss_weights [batch, seq] carries the average
    (1/|o| per answer, or token mean) and the mask.

    Worked example, one token of weight 1, advantage 1, old logprob 0, logprob log(1.5), clip 0.2: the ratio 1.5 is
    clipped to 1.2, so the loss is -1.2 and its gradient is zero.
    """
    weights = batch.loss_weights
    masked = weights > 0
    old, advantages = batch.extras["old_logprobs"], batch.extras["advantages"]

    # DSM eq. 3: min(ratio * A, clip(ratio) * A)
    log_ratio = torch.where(masked, logprobs - old, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    loss = -(weights * surrogate).sum()

    with torch.no_grad():
        was_clipped = (ratio * advantages > clipped * advantages).float()
        metrics = {
            "rl/clip_frac": (weights * was_clipped).sum(),
            "rl/ratio": (weights * ratio).sum(),
            "rl/policy_kl": (weights * (ratio - 1 - log_ratio)).sum(),
        }

    # DSM eq. 4: k3, unbiased and never negative
    if cfg.kl_coef > 0:
        ref_log_ratio = torch.where(masked, batch.extras["ref_logprobs"] - logprobs, 0.0)
        kl = (weights * (ref_log_ratio.exp() - ref_log_ratio - 1)).sum()
        loss = loss + cfg.kl_coef * kl
        metrics["rl/kl"] = kl.detach()
    return LossOutput(loss=loss, metrics=metrics)
