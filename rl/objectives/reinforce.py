"""REINFORCE (Williams 1992): the answer's log-probability times what it earned above the step's mean.

Nothing corrects for the updates before it: with rl.minibatches > 1 the later ones are off-policy by one step.
"""

from torch import Tensor

from rl.objective_config import ObjectiveConfig
from rl.objectives.terms import answer_sums, k3_penalty
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def reinforce_loss(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> LossOutput:
    """-sum over answers of W A log p(answer), W the sum of the answer's loss_weights.

    logprobs [batch, seq]; batch.extras: `advantages` (and `ref_logprobs` where kl_coef > 0), both [batch, seq].

    Example, an answer of two tokens of weight 1/2, advantage 2, log p = -1 and -3: the loss is -2 * (-4) = 8.
    """
    weighted = answer_sums(batch, batch.loss_weights * batch.extras["advantages"])  # W A, [batch]
    surrogate = -(weighted * answer_sums(batch, logprobs)).sum()
    penalty, metrics = k3_penalty(batch, logprobs, cfg)
    return LossOutput(loss=surrogate + penalty, metrics=metrics)
