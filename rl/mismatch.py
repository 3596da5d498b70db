"""How far the sampler is from the trainer, told in ways that different faults show in (experiments/mismatch).

Two questions are apart: does the trainer give the sampled tokens the logprobs that the sampler told (here), and were
the tokens drawn from the distribution that those logprobs are of (rl/metrics.py: surprisal)? A sampler that draws at
another temperature and tells the logprobs of the right one passes the first and fails the second.
"""

import torch
from torch import Tensor

from training.micro_batch import MicroBatch

FAR = 1.0
"Nats: a token whose two logprobs are this far apart was read in another context, or not by this network."


def mismatch_metrics(batch: MicroBatch, logprobs: Tensor) -> dict[str, Tensor]:
    """Weighted means over the tokens of logprobs [batch, seq] (the trainer's) against extras `sampler_logprobs`.

    rl/sampler_trainer_diff: of |difference|; rl/sampler_trainer_kl: of r - log r - 1 with r = p_trainer / p_sampler,
    KL(sampler || trainer) without bias and never negative; rl/sampler_trainer_far_frac: of those further than FAR.
    log r is bounded at FAR for it: one token of r = 1e6 would hide all others.

    Example, two tokens of weight .5, trainer log .5 each, sampler log .5 and log .1: diff .805, kl (e - 2) / 2 = .359,
    far .5.
    """
    weights, sampler = batch.loss_weights, batch.extras["sampler_logprobs"]
    log_ratio = torch.where(weights > 0, logprobs.detach() - sampler, 0.0)
    bounded = log_ratio.clamp(max=FAR)
    return {
        "rl/sampler_trainer_diff": (weights * log_ratio.abs()).sum(),
        "rl/sampler_trainer_kl": (weights * (bounded.exp() - bounded - 1)).sum(),
        "rl/sampler_trainer_far_frac": (weights * (log_ratio.abs() > FAR)).sum(),
    }
