"""The network with one number a token in the place of logits: reward models (R1 §2.3.4) and critics."""

from typing import Any

import torch
from torch import Tensor

from modeling import cpu

cpu.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402


class ScoreHead(MegatronModule):
    """hidden [seq, batch, hidden] -> [seq, batch, 1] in FP32, whole on every tensor-parallel rank.

    It starts at zero, in every layout alike: before training all texts are equal.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))
        self.weight.is_embedding_or_output_parameter = True  # never Muon's

    def forward(self, hidden: Tensor, weight: None = None, runtime_gather_output: bool | None = None) -> Any:
        """Called as Megatron calls an output layer; -> (scores, no bias)."""
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return torch.nn.functional.linear(hidden.float(), self.weight.float()), None


class ScoreModel(GPTModel):
    """GPTModel whose "loss per token" is the token's score [batch, seq]: schedules and steps run it unchanged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.post_process:
            self.output_layer = ScoreHead(self.config)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """[seq, batch, 1] -> [batch, seq]; the labels only say that scores are wanted."""
        return logits.squeeze(-1).t().contiguous()
