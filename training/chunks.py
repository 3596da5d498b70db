"""The stages of an interleaved pipeline that one rank holds, where one module is asked for."""

from typing import Any

from torch import nn


class Chunks(nn.ModuleList):
    """Several stages, in order: networks, or their data-parallel wrappers."""

    @property
    def config(self) -> Any:
        """Megatron's config, which is the same for all."""
        return self[0].config

    @property
    def module(self) -> "Chunks":
        """The networks inside the wrappers."""
        return Chunks(chunk.module for chunk in self)

    def zero_grad_buffer(self) -> None:
        """As the wrapper's."""
        for chunk in self:
            chunk.zero_grad_buffer()


def chunks(model: nn.Module) -> list[nn.Module]:
    """The stages of a model; most have one."""
    return list(model) if isinstance(model, Chunks) else [model]
