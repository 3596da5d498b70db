"""Multi-token prediction (V3 §2.2): left out where it is not wanted, and how often its second token is right.

Megatron adds the MTP loss by its gradient alone (training/step.py sets its weight); its value never enters the loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from modeling import cpu

cpu.install()

from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper  # noqa: E402


@contextmanager
def without_mtp(module: nn.Module) -> Iterator[None]:
    """Inside, the bare network (GPTModel) runs its main model only."""
    process, depth = module.mtp_process, module.config.mtp_num_layers
    module.mtp_process, module.config.mtp_num_layers = False, None
    try:
        yield
    finally:
        module.mtp_process, module.config.mtp_num_layers = process, depth


def mtp_acceptance() -> dict[str, float]:
    """Share of positions whose second token MTP's arg-max names, since the last call, on this rank (V3 §5.4.3).

    {"mtp/acceptance": 0.85}; empty where MTP was not trained in between.
    """
    tracker: dict[str, Any] = MTPLossLoggingHelper.tracker
    correct, total = tracker.get("correct_values"), tracker.get("total_values")
    if total is None or not total.any():
        return {}
    share = (correct.sum() / total.sum()).item()
    MTPLossLoggingHelper.clean_metrics_in_tracker()
    return {"mtp/acceptance": share}
