"""The policy's logprobs, and the reference policy they are held against (DSM §4.1.1; R1 §2.2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.step import MicroBatch, token_logprobs


class Reference:
    """A copy of the policy's weights as they were, replaced by the policy's own every so many steps.

    It costs one copy of the weights and no second model: its logprobs are computed by lending its tensors to the
    policy's modules for one forward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weights: dict[str, Tensor] = {}
        self.refresh(module)

    def refresh(self, module: nn.Module) -> None:
        """Take the policy's present weights as the reference (R1: every 400 steps)."""
        self._weights = {name: t.detach().clone() for name, t in weights_of(module)}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._weights)

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():  # a checkpoint is read on the CPU
            self._weights[name].copy_(tensor)

    @contextmanager
    def lent_to(self, module: nn.Module) -> Iterator[None]:
        """Inside, `module` computes with the reference's weights; outside, with its own again."""
        own = {name: tensor.data for name, tensor in weights_of(module)}
        try:
            for name, tensor in weights_of(module):
                tensor.data = self._weights[name]
            yield
        finally:
            for name, tensor in weights_of(module):
                tensor.data = own[name]

    def logprobs(self, model: nn.Module, module: nn.Module, micro_batches: list[MicroBatch]) -> list[Tensor]:
        """Logprobs of the labels under the reference, one [batch, seq] tensor per micro-batch.

        model: what token_logprobs runs (wrapped); module: the network inside it, whose weights are lent.
        """
        with self.lent_to(module):
            return token_logprobs(model, micro_batches)


def weights_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and the buffers that decide routing (the expert bias)."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if name.endswith("expert_bias"):
            yield name, buffer
