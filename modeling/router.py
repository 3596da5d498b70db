"""Megatron's router where rows are padded: padding is no load (V3 §2.1.2), and a row's balance loss is its own.

Megatron's balance loss divides by the mean length of the rows beside it, so that dealing rows to other micro-batches
would change it; its count of tokens per expert fails on any padding mask.
"""

from torch import Tensor

from modeling import cpu

cpu.install()

from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region  # noqa: E402
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler  # noqa: E402
from megatron.core.transformer.moe.router import TopKRouter  # noqa: E402


class Router(TopKRouter):
    """In the place of TopKRouter in the layer spec. Its padding_mask is True at padding, [seq, batch]."""

    def _apply_seq_aux_loss(
        self,
        probs: Tensor,
        scores_for_aux_loss: Tensor,
        routing_map: Tensor,
        seq_length: int,
        bsz: int,
        with_padding_mask: bool = False,
    ) -> Tensor:
        """V3 eq. 17-20 for each row over its own T tokens, times T: summed over a step and divided by its tokens
        (training/step.py), that is the mean over tokens of their rows' losses.

        scores_for_aux_loss (eq. 20), routing_map [seq * batch, experts] are 0 at padding. The gradient enters by probs.
        """
        alpha, experts = self.get_aux_loss_coeff("seq_aux_loss"), self.config.num_moe_experts
        if alpha == 0:
            return probs
        scores = scores_for_aux_loss.view(seq_length, bsz, experts).sum(0)
        chosen = routing_map.view(seq_length, bsz, experts).sum(0)
        chosen = reduce_from_tensor_model_parallel_region(chosen, self.tp_cp_group)  # ranks hold parts of the row
        tokens = (chosen.sum(-1) / self.topk).clamp(min=1)
        loss = alpha * experts / self.topk * ((chosen * scores).sum(-1) / tokens).sum()
        return MoEAuxLossAutoScaler.apply(probs, loss)

    def _apply_expert_bias(self, routing_map: Tensor, padding_mask: Tensor | None = None) -> None:
        super()._apply_expert_bias(routing_map, None if padding_mask is None else padding_mask.unsqueeze(-1))
