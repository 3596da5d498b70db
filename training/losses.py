"""Losses as weighted sums: a batch's loss_weights sum to 1 over the whole step, so nothing divides afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from training.step import MicroBatch


@dataclass(kw_only=True, slots=True)
class LossOutput:
    """What a loss function gives for one micro-batch."""

    loss: Tensor
    """Scalar to differentiate; its sum over micro-batches and ranks is the step's loss."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars by name, summed over micro-batches and ranks; the same names in each."""


type LossFn = Callable[[MicroBatch, Tensor], LossOutput]
"""(micro-batch, token_loss [batch, seq] = -log p(label)) -> LossOutput."""


def next_token_loss(batch: MicroBatch, token_loss: Tensor) -> LossOutput:
    """Cross-entropy of the next token (V3 eq. 24 without MTP): sum of token_loss times loss_weights.

    Example: token_loss [[1., 3.]], loss_weights [[0.5, 0.5]] -> 2.
    """
    return LossOutput(loss=(token_loss * batch.loss_weights).sum())
