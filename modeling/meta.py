"""Networks without memory: shapes, names and counts of models that no machine at hand could hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = {
    getattr(torch, name) for name in "tensor empty zeros ones full arange rand randn linspace empty_strided".split()
}
_DRAWS = {torch.nn.init.normal_, torch.nn.init.uniform_, torch.Tensor.normal_, torch.Tensor.uniform_}
"Of no effect there, and slow."


class _OnMeta(TorchFunctionMode):
    """torch.device("meta") leaves alone who names a device, as Megatron does; this does not."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if func in _FACTORIES:
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Inside, every new tensor has a shape and no values."""
    with _OnMeta():
        yield
