"""PPO: the clipped surrogate on advantages of a value model, whose own loss is clipped too.

Schulman et al. 2017; DSM eq. 1-2; InstructGPT §3.5. The advantages are GAE's (rl/gae.py), token by token.
"""

import torch
from torch import Tensor

from rl.objective_config import ObjectiveConfig
from rl.objectives.terms import clipped_surrogate, k3_penalty
from training.losses import LossOutput
from training.micro_batch import MicroBatch


def ppo_loss(batch: MicroBatch, logprobs: Tensor, cfg: ObjectiveConfig) -> LossOutput:
    """The policy's loss on one micro-batch: DSM eq. 1; its KL is in the tokens' rewards, or as in GRPO in the loss.

    logprobs [batch, seq]; batch.extras: `old_logprobs`, `advantages` (and `ref_logprobs` where kl_coef > 0), all
    [batch, seq].
    """
    surrogate, metrics = clipped_surrogate(batch, logprobs, cfg)
    if cfg.kl_in_reward:
        return LossOutput(loss=surrogate, metrics=metrics)
    penalty, kl = k3_penalty(batch, logprobs, cfg)
    return LossOutput(loss=surrogate + penalty, metrics=metrics | kl)


def value_loss(batch: MicroBatch, values: Tensor, clip_value: float) -> LossOutput:
    """The value model's loss: 1/2 sum of w max((V - R)^2, (clip(V, V_old +- c) - R)^2), as OpenAI's and TRL's code.

    values: [batch, seq], of the prefix that each label follows. batch.extras: `old_values`, `returns` [batch, seq].

    Example, one token of weight 1, return 1, old value 0, value 0.5, c = 0.2: the clipped value 0.2 is the farther, so
    the loss is 0.8^2 / 2 = 0.32 and its gradient is zero.
    """
    weights, old, returns = batch.loss_weights, batch.extras["old_values"], batch.extras["returns"]
    values = torch.where(weights > 0, values, 0.0)
    clipped = torch.clamp(values, old - clip_value, old + clip_value)
    plain, held = (values - returns).square(), (clipped - returns).square()
    loss = 0.5 * (weights * torch.maximum(plain, held)).sum()
    return LossOutput(
        loss=loss,
        metrics={
            "rl/value": (weights * values.detach()).sum(),
            "rl/value_clip_frac": (weights * (held > plain)).sum(),
        },
    )
