"""Micro-batches of given numbers for the tests of losses: float64, no network."""

import torch
from torch import Tensor

from training.micro_batch import MicroBatch


def rows(weights: list[list[float]] | Tensor, **extras: list[list[float]] | Tensor) -> MicroBatch:
    """weights and extras [batch, seq]; tokens are of no account."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    ids = torch.zeros(weights.shape, dtype=torch.long)
    extras = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in extras.items()}
    return MicroBatch(tokens=ids, labels=ids, loss_weights=weights, extras=extras)


def random_rows(seed: int, batch: int, seq: int, *names: str) -> tuple[MicroBatch, Tensor]:
    """Responses of random lengths behind random prompts, per-answer weights; -> (batch, logprobs [batch, seq]).

    names: extras, of small random numbers; advantages are the same over an answer.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weights = torch.zeros(batch, seq, dtype=torch.float64)
    for row in weights:
        start = int(torch.randint(0, seq // 2, (), generator=generator))
        length = int(torch.randint(1, seq - start + 1, (), generator=generator))
        row[start : start + length] = 1 / (batch * length)
    extras = {name: -1 + 0.3 * draw(batch, seq) for name in names}
    if "advantages" in extras:
        extras["advantages"] = draw(batch, 1).expand(batch, seq) * (weights > 0)
    return rows(weights, **extras), (-1 + 0.3 * draw(batch, seq)).requires_grad_()
