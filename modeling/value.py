"""A network that gives a value to each prefix: PPO's critic (DSM §4.1.1), and what a reward model is made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from modeling import cpu

cpu.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region  # noqa: E402


class ValueHead(nn.Module):
    """hidden [seq, batch, hidden] -> [seq, batch, 1] in FP32, where Megatron has the head over the vocabulary.

    It begins at zero, so that the first values are 0 and every rank has the same.
    """

    def __init__(self, hidden_size: int, dtype: torch.dtype, device: torch.device, sequence_parallel: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(1, dtype=dtype, device=device))
        self.weight.is_embedding_or_output_parameter = True  # never Muon's
        self.sequence_parallel = sequence_parallel

    def forward(self, hidden: Tensor, weight: None = None, runtime_gather_output: None = None) -> tuple[Tensor, None]:
        if self.sequence_parallel:  # each tensor rank then does the same with the whole row
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return F.linear(hidden.float(), self.weight.float(), self.bias.float()), None


def make_value_model(module: GPTModel) -> GPTModel:
    """Put a scalar head in the place of the vocabulary's and leave MTP out, in place; -> module.

    module(tokens, positions, mask, labels=...) then gives values [batch, seq] in FP32: at each place that of the prefix
    up to its token. Raises ConfigError for one of several pipeline stages.
    """
    config = module.config
    if config.pipeline_model_parallel_size > 1:
        raise ConfigError(
            "parallel.pipeline",
            config.pipeline_model_parallel_size,
            "a value model is not cut over pipeline stages",
            "set parallel.pipeline=1",
        )
    like = next(module.parameters())
    module.output_layer = ValueHead(config.hidden_size, like.dtype, like.device, config.sequence_parallel)
    module.share_embeddings_and_output_weights = False
    module.compute_language_model_loss = lambda labels, values: values.squeeze(-1).t().contiguous()
    if module.mtp_process:
        del module.mtp
        module.mtp_process, config.mtp_num_layers = False, None
    return module
