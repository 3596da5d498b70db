"""Multi-token prediction (V3 §2.2): left out where it is not wanted, and how often its second token is right.

Megatron adds the MTP loss by its gradient alone (training/step.py sets its weight); its value never enters the loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modeling import cpu

cpu.install()

from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_token_prediction import (  # noqa: E402
    MTPLossLoggingHelper,
    MultiTokenPredictionLayer,
)


class MTPLayer(MultiTokenPredictionLayer):
    """Megatron's MTP layer, with padding where V3 eq. 21 has no place: a row of T tokens has T - k at depth k.

    Megatron moves the mask one to the left and calls what comes in from the right a token, at the end of the row and,
    with sequence parallelism, at the end of each rank's part.
    """

    def _get_embeddings(self, *args: Any, padding_mask: Tensor | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """Tokens, positions, mask [batch, this rank's seq], embeddings and hidden states of this depth."""
        ids, positions, _, embedded, hidden = super()._get_embeddings(*args, padding_mask=None, **kwargs)
        seq, batch = hidden.shape[:2]
        if padding_mask is None:
            padding_mask = torch.zeros(batch, seq, dtype=torch.bool, device=hidden.device)
        return ids, positions, self._one_on(padding_mask), embedded, hidden

    def _one_on(self, mask: Tensor) -> Tensor:
        """The mask of the tokens one to the right; the last place of the row has none."""
        split = self.config.sequence_parallel
        rows = mask.t().contiguous().int()
        whole = gather_from_sequence_parallel_region(rows) if split else rows
        moved = torch.cat([whole[1:], torch.ones_like(whole[:1])])
        return (scatter_to_sequence_parallel_region(moved) if split else moved).t().bool()


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
