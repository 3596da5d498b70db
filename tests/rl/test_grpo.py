"""The GRPO loss against numbers worked out by hand and its gradient against finite differences."""

import math

import pytest
import torch

from infra.errors import ConfigError
from rl.objectives.grpo import GRPOConfig, grpo_loss
from training.step import MicroBatch


def batch(weights, advantages, old, ref=None):
    as_row = lambda values: torch.tensor([values], dtype=torch.float64)  # noqa: E731
    extras = {"advantages": as_row(advantages), "old_logprobs": as_row(old)}
    if ref is not None:
        extras["ref_logprobs"] = as_row(ref)
    ids = torch.zeros(1, len(weights), dtype=torch.long)
    return MicroBatch(tokens=ids, labels=ids, loss_weights=as_row(weights), extras=extras)


def test_clipped_and_unclipped_tokens_by_hand():
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages +1, -1, +1, -1 and clip [0.8, 1.28]:
    # min(1.5, 1.28) = 1.28; min(-1.5, -1.28) = -1.5; min(0.5, 0.8) = 0.5; min(-0.5, -0.8) = -0.8
    logprobs = torch.tensor([[math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)]], dtype=torch.float64)
    out = grpo_loss(batch([0.25] * 4, [1, -1, 1, -1], [0.0] * 4), logprobs, GRPOConfig(clip_low=0.2, clip_high=0.28))
    assert out.loss.item() == pytest.approx(-(1.28 - 1.5 + 0.5 - 0.8) / 4)
    assert out.metrics["rl/clip_frac"].item() == pytest.approx(0.5)


def test_kl_is_the_k3_estimator():
    # reference twice as likely: r = 2, k3 = 2 - log 2 - 1
    out = grpo_loss(
        batch([1.0], [0.0], [0.0], ref=[math.log(2.0)]), torch.zeros(1, 1, dtype=torch.float64), GRPOConfig(kl_coef=0.5)
    )
    assert out.metrics["rl/kl"].item() == pytest.approx(1 - math.log(2))
    assert out.loss.item() == pytest.approx(0.5 * (1 - math.log(2)))


def test_gradient_equals_finite_differences():
    torch.manual_seed(0)
    logprobs = (torch.randn(1, 6, dtype=torch.float64) * 0.3).requires_grad_()
    one = batch([0.1, 0.2, 0.3, 0.2, 0.2, 0.0], [1, -1, 2, -0.5, 0.3, 9], [0.1, -0.2, 0.3, 0, 0, 0], ref=[0.05] * 6)
    assert torch.autograd.gradcheck(lambda lp: grpo_loss(one, lp, GRPOConfig(kl_coef=0.1)).loss, (logprobs,))


def test_masked_tokens_cannot_reach_loss_or_gradient():
    logprobs = torch.tensor([[0.0, 500.0]], dtype=torch.float64, requires_grad=True)
    out = grpo_loss(batch([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], ref=[0.0, 0.0]), logprobs, GRPOConfig(kl_coef=0.1))
    out.loss.backward()
    assert torch.isfinite(out.loss) and logprobs.grad[0, 1] == 0.0


def test_impossible_constants_are_refused():
    with pytest.raises(ConfigError, match="clip_low"):
        GRPOConfig(clip_low=0.0)
    with pytest.raises(ConfigError, match="kl_coef"):
        GRPOConfig(kl_coef=-1.0)
