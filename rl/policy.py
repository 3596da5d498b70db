"""The policy's logprobs, and the reference policy they are held against (DSM §4.1.1; R1 §2.2)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from training.step import MicroBatch, token_logprobs
from training.whole import fill, gather


class Reference:
    """A copy of the policy's weights as they were, replaced by the policy's own every so many steps.

    It costs one copy of the weights and no second model: its logprobs are computed by lending its tensors to the
    policy's modules for one forward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        """module: the policy's network, this rank's part of it."""
        self.module = module
        self.refresh()

    def refresh(self) -> None:
        """Take the policy's present weights as the reference (R1: every 400 steps)."""
        self._weights = {name: t.detach().clone() for name, t in weights_of(self.module)}

    @property
    def weights(self) -> list[Tensor]:
        """This rank's part of it."""
        return list(self._weights.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The whole reference, the same on every rank, in any layout; every rank calls it."""
        with self.lent():
            return gather(self.module)

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        with self.lent():
            fill(self.module, weights)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the policy's network computes with the reference's weights; outside, with its own again."""
        own = {name: tensor.data for name, tensor in weights_of(self.module)}
        try:
            for name, tensor in weights_of(self.module):
                tensor.data = self._weights[name]
            yield
        finally:
            for name, tensor in weights_of(self.module):
                tensor.data = own[name]

    def logprobs(self, model: nn.Module, micro_batches: list[MicroBatch]) -> list[Tensor]:
        """Logprobs of the labels under the reference, one [batch, seq] tensor per micro-batch.

        model: what token_logprobs runs, the network's wrapper.
        """
        with self.lent():
            return token_logprobs(model, micro_batches)


def weights_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and the buffers that decide routing (the expert bias)."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if name.endswith("expert_bias"):
            yield name, buffer
