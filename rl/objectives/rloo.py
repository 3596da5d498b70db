"""RLOO: REINFORCE on whole answers, the other answers' mean as the baseline (Kool et al. 2019; Ahmadian et al. 2024).

A step's later minibatches are off-policy by its first; the ratio of the whole answer, clipped, makes up for it, as in
TRL. In the first the ratio is 1 and the gradient is A times that of log p(answer).
"""

import torch
from torch import Tensor

from rl.objective_config import ObjectiveConfig
from rl.objectives.terms import answer_sums, k3_penalty
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def rloo_loss(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> LossOutput:
    """-sum over answers of W min(ratio A, clip(ratio) A), ratio = p(answer) / p_old(answer), W the answer's weight.

    logprobs [batch, seq]; batch.extras: `old_logprobs`, `advantages` (and `ref_logprobs` where kl_coef > 0), all
    [batch, seq]. W is the sum of the answer's loss_weights: 1 / N under per_answer, its share of the tokens under
    token_mean.
    """
    ratio = answer_sums(batch, logprobs - batch.extras["old_logprobs"]).exp()
    weighted = answer_sums(batch, batch.loss_weights * batch.extras["advantages"])  # W A, [batch]
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    surrogate = -torch.minimum(ratio * weighted, clipped * weighted).sum()
    penalty, kl = k3_penalty(batch, logprobs, cfg)
    with torch.no_grad():
        weight = batch.loss_weights.sum(dim=1)
        metrics = {
            "rl/clip_frac": (weight * (ratio * weighted > clipped * weighted)).sum(),
            "rl/ratio": (weight * ratio).sum(),
        }
    return LossOutput(loss=surrogate + penalty, metrics=metrics | kl)
