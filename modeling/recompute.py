"""Activations computed anew in the backward pass (V3 §3.2.3): Megatron's settings, and its code without Transformer
Engine, which it otherwise takes for granted.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from infra.errors import ConfigError
from modeling import cpu
from modeling.config import Experts, ModelConfig

cpu.install()

from megatron.core.tensor_parallel import random  # noqa: E402


def recompute_fields(cfg: ModelConfig, te: bool, names: Sequence[str]) -> dict[str, Any]:
    """What Megatron's config says of `names`: "full", or some of its recompute_modules; nothing where all is kept.

    te: whether Transformer Engine's modules are built. Raises ConfigError for what no module here does.
    """
    if "full" in names:
        return dict(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    if "moe_act" in names and not te:
        if cfg.experts is Experts.sequential:
            problem, remedy = "Megatron's experts one by one keep theirs", "leave it out, or set model.experts=auto"
            raise ConfigError("parallel.recompute", "moe_act", problem, remedy)
        names = [name for name in names if name != "moe_act"]  # our experts keep no activation in any case
    return dict(recompute_granularity="selective", recompute_modules=list(names)) if names else {}


def _refill(emptied: Tensor, again: Tensor) -> None:
    """Give a tensor whose memory was given up what was computed again; Megatron's way compiles C++ at run time."""
    storage, made = emptied.untyped_storage(), again.untyped_storage()
    storage.resize_(made.size())
    storage.copy_(made)


if not random.HAVE_TE:
    random._get_share_storage = lambda: _refill
    random.CheckpointWithoutOutput.__init__.__defaults__ = (None,)  # False there means that FP8 is to be asked about
