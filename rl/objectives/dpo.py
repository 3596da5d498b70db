"""DPO: the chosen of two answers shall gain on the rejected one, against the reference (Rafailov et al. 2023 eq. 7).

The rows of a micro-batch are pairs: chosen, rejected, chosen, rejected, ...
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.objectives.terms import answer_sums
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def dpo_loss(batch: MicroBatch, logprobs: Tensor, beta: float, nll_coef: float = 0.0) -> LossOutput:
    """sum over pairs of W (-log sigmoid(beta (l_chosen - l_rejected)) + nll_coef NLL), l = log(p / p_ref) of an answer.

    logprobs [batch, seq], batch even; batch.extras: `ref_logprobs` [batch, seq]. W is the sum of both rows'
    loss_weights. NLL is the chosen answer's mean over its tokens (Pang et al. 2024 eq. 1), off in DPO itself.

    Example, one pair of weight 1, l = 1 and -1, beta = 0.5: -log sigmoid(1) = 0.3133.
    """
    log_ratio = answer_sums(batch, logprobs - batch.extras["ref_logprobs"])
    chosen, rejected = beta * log_ratio[0::2], beta * log_ratio[1::2]  # the implicit rewards
    weight = batch.loss_weights.sum(dim=1)
    weight = weight[0::2] + weight[1::2]
    loss = -(weight * F.logsigmoid(chosen - rejected)).sum()
    tokens = (batch.loss_weights > 0).sum(dim=1).clamp_min(1)
    nll = -(weight * (answer_sums(batch, logprobs) / tokens)[0::2]).sum()
    if nll_coef > 0:
        loss = loss + nll_coef * nll
    with torch.no_grad():
        metrics = {
            "dpo/accuracy": (weight * (chosen > rejected)).sum(),
            "dpo/margin": (weight * (chosen - rejected)).sum(),
            "dpo/reward_chosen": (weight * chosen).sum(),
            "dpo/reward_rejected": (weight * rejected).sum(),
            "dpo/nll": nll.detach(),
        }
    return LossOutput(loss=loss, metrics=metrics)
