"""The loss of reward models: the better answer of a pair should score higher (Bradley-Terry; R1 §2.3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.reward_model_data import answer_scores
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def bradley_terry_loss(batch: MicroBatch, scores: Tensor) -> LossOutput:
    """Sum over pairs of weight * -log sigmoid(score of chosen - score of rejected).

    batch: rows 2i and 2i + 1 are pair i, chosen first; the one place of a row with a loss weight is where the answer
    ends, and each row has half its pair's weight. scores: [batch, seq], a number for every place.

    Scores 1 and 0, weights 0.5 and 0.5: the loss is log(1 + 1/e) = 0.3133, the accuracy 1. Equal scores are half right.
    """
    answers, weights = answer_scores(batch, scores), batch.loss_weights.sum(1)
    pairs = len(answers) // 2 * 2  # a pipeline's filler is a single row, of weight 0
    margin = answers[:pairs:2] - answers[1:pairs:2]
    weights = weights[:pairs:2] + weights[1:pairs:2]
    loss = (weights * -F.logsigmoid(margin)).sum()
    found = {"accuracy": pair_accuracy(margin), "margin": margin}
    return LossOutput(
        loss=loss, metrics={f"reward_model/{key}": (weights * value.detach()).sum() for key, value in found.items()}
    )


def pair_accuracy(margin: Tensor) -> Tensor:
    """1 where the chosen answer scored higher, 0 where lower, 1/2 where both are equal."""
    return (1 + torch.sign(margin)) / 2
