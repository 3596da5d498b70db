"""Generalised advantage estimation (Schulman et al. 2016 eq. 16), and the rewards of single tokens."""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """-> (advantages, returns), both [batch, seq], zero outside the mask.

    rewards: of each token, values: of the prefix before it, both [batch, seq]. mask: bool [batch, seq], each row's
    response, in one run; behind its last token nothing more is earned, cut answers included.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1};  return_t = A_t + V_t.

    Example, rewards [0, 1], values [0.5, 0.8], gamma = 1, lambda = 0.5: delta = [0.3, 0.2], advantages [0.4, 0.2].
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * gae_lambda * advantage, 0.0)
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages, torch.where(mask, advantages + values, 0.0)


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor | None, mask: Tensor, kl_coef: float
) -> Tensor:
    """What each token earns: -kl_coef log(p / p_ref), and the answer's score at its end (InstructGPT §3.5; DSM eq. 2).

    scores: [batch], of whole answers; the others [batch, seq]. ref_logprobs None: no penalty. Returns [batch, seq].
    """
    rewards = torch.zeros_like(logprobs)
    if ref_logprobs is not None:
        rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    later = mask.flip(1).cumsum(1).flip(1)  # response tokens from here on
    return rewards + torch.where(mask & (later == 1), scores[:, None].to(rewards.dtype), 0.0)
