"""GRPO: clipped ratio with a KL penalty in the loss (DSM eq. 3-4; R1 eq. 1-2)."""

from torch import Tensor

from rl.config import GRPOConfig
from rl.objectives.terms import clipped_surrogate, k3_penalty
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def grpo_loss(batch: MicroBatch, logprobs: Tensor, cfg: GRPOConfig) -> LossOutput:
    """GRPO's loss on one micro-batch.

    logprobs: [batch, seq], the policy's, of each label token. batch.extras holds `old_logprobs` and `advantages`
    (and `ref_logprobs` where kl_coef > 0), all [batch, seq]; batch.loss_weights [batch, seq] carries the average
    (1/|o| per answer, or token mean) and the mask.
    """
    surrogate, metrics = clipped_surrogate(batch, logprobs, cfg)  # DSM eq. 3
    penalty, kl = k3_penalty(batch, logprobs, cfg)  # DSM eq. 4
    return LossOutput(loss=surrogate + penalty, metrics=metrics | kl)
