"""Multi-token prediction (V3 §2.2): its loss, left out where it is not wanted, and how often its second token is right.

Megatron adds the MTP loss by its gradient alone (training/step.py sets its weight); its value never enters the loss.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modeling import cpu

cpu.install()

from megatron.core.models.gpt import gpt_model  # noqa: E402
from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_token_prediction import (  # noqa: E402
    MTPLossAutoScaler,
    MultiTokenPredictionLayer,
    _compute_mtp_acceptance_counts,
    roll_tensor,
)

_drafted: list[Tensor] = []
"[right, all] second tokens since mtp_acceptance was asked; empty where there were none."


def mtp_loss(
    hidden_states: Tensor,
    labels: Tensor | None,
    loss_mask: Tensor | None,
    output_layer: nn.Module,
    output_weight: Tensor | None,
    runtime_gather_output: bool | None,
    is_training: bool,
    compute_language_model_loss: Callable[[Tensor, Tensor], Tensor],
    config: Any,
    cp_group: dist.ProcessGroup | None = None,
    tp_group: dist.ProcessGroup | None = None,
    packed_seq_params: Any = None,
    scale_logits_fn: Callable[[Tensor], Tensor] | None = None,
    input_ids: Tensor | None = None,
) -> Tensor:
    """V3 eq. 24-25 as a weighted sum, in the place of Megatron's process_mtp_loss.

    hidden_states [(1 + depths) * seq, batch, hidden]: the main model's, then each depth's. labels [batch, seq] are the
    next tokens; loss_mask [batch, seq] is their weight in the step. -> the main model's; by its gradient enters the
    mean of the depths' losses.

    Megatron divides by the weights' sum over the rows at hand, which depends on how rows are dealt to micro-batches,
    and cut over context ranks.
    """
    main, *depths = hidden_states.chunk(1 + config.mtp_num_layers)
    if labels is None or loss_mask is None:
        return main
    for hidden in depths:
        labels, _ = roll_tensor(labels, cp_group=cp_group)
        loss_mask, _ = roll_tensor(loss_mask, cp_group=cp_group)
        logits, _ = output_layer(hidden, weight=output_weight, runtime_gather_output=runtime_gather_output)
        loss = loss_mask * compute_language_model_loss(labels, logits)
        if is_training:
            counts = _compute_mtp_acceptance_counts(
                logits, labels, loss_mask, output_layer, runtime_gather_output, tp_group
            )
            _drafted[:] = [sum(_drafted, torch.stack(counts))]
        main = MTPLossAutoScaler.apply(main, loss / config.mtp_num_layers)
    return main


gpt_model.process_mtp_loss = mtp_loss  # GPTModel calls it by this name, and has no other place for it


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
        tokens = (~mask).t().contiguous().int()
        whole = gather_from_sequence_parallel_region(tokens) if split else tokens
        moved, _ = roll_tensor(whole, dims=0, cp_group=self.cp_group)
        return ~(scatter_to_sequence_parallel_region(moved) if split else moved).t().bool()


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
    right, total = _drafted.pop().tolist() if _drafted else (0.0, 0.0)
    return {"mtp/acceptance": right / total} if total else {}
