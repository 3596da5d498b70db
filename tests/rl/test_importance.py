"""Truncated importance weights by hand, and that weighing advantages is weighing the surrogate."""

import math

import pytest
import torch

from infra.errors import ConfigError
from rl.config import GRPOConfig, OldLogprobs, RLConfig
from rl.importance import correct_for_sampler, importance_metrics
from rl.objectives.grpo import grpo_loss
from training.step import MicroBatch


def batch(old: list[float], sampler: list[float], advantages: list[float], weights: list[float]) -> MicroBatch:
    ids = torch.zeros(1, len(old), dtype=torch.long)
    extras = {"old_logprobs": old, "sampler_logprobs": sampler, "advantages": advantages}
    extras = {key: torch.tensor([value]) for key, value in extras.items()}
    return MicroBatch(tokens=ids, labels=ids, loss_weights=torch.tensor([weights]), extras=extras)


def hand_made() -> MicroBatch:
    """Ratios 2.5, 0.5, 1 and 2 under a cap of 2; the last place is padding, where nothing is known."""
    trainer, sampler = [0.5, 0.2, 0.7, 0.6], [0.2, 0.4, 0.7, 0.3]
    return batch(
        [*map(math.log, trainer), -300.0],
        [*map(math.log, sampler), 0.0],
        [-1.0, 1.0, 1.0, 0.5, 0.0],
        [0.25, 0.25, 0.25, 0.25, 0.0],
    )


def test_weights_by_hand():
    made = hand_made()
    correct_for_sampler(made, cap=2.0)
    torch.testing.assert_close(made.extras["importance"], torch.tensor([[2.0, 0.5, 1.0, 2.0, 1.0]]))
    torch.testing.assert_close(made.extras["advantages"], torch.tensor([[-2.0, 0.5, 1.0, 1.0, 0.0]]))
    told = {key: value.item() for key, value in importance_metrics(made, 2.0).items()}
    assert told == pytest.approx({"rl/importance": 5.5 / 4, "rl/importance_capped_frac": 0.5})


def test_the_loss_is_the_weighed_surrogate():
    """-sum w * min(cap, trainer / sampler) * min(r A, clip(r) A), the reference written out token by token."""
    plain, weighed = hand_made(), hand_made()
    correct_for_sampler(weighed, cap=2.0)
    now = torch.tensor([[math.log(0.9), math.log(0.1), math.log(0.7), math.log(0.9), 0.0]], requires_grad=True)
    cfg = GRPOConfig(clip_low=0.2, clip_high=0.2)
    loss = grpo_loss(weighed, now, cfg).loss
    expected = 0.0
    for i, cut in enumerate([2.0, 0.5, 1.0, 2.0]):
        advantage, ratio = (
            plain.extras["advantages"][0, i].item(),
            math.exp(now[0, i] - plain.extras["old_logprobs"][0, i]),
        )
        clipped = min(max(ratio, 0.8), 1.2)
        expected -= 0.25 * cut * min(ratio * advantage, clipped * advantage)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert now.grad[0, 4] == 0 and now.grad.isfinite().all()


def test_a_sampler_that_agrees_changes_nothing():
    made = batch([-1.0, -2.0], [-1.0, -2.0], [1.0, -1.0], [0.5, 0.5])
    correct_for_sampler(made, cap=2.0)
    assert made.extras["advantages"].tolist() == [[1.0, -1.0]]


def test_an_expectation_over_the_sampler_s_tokens_becomes_the_trainer_s():
    """Without a cap in reach: E_sampler[w A] = E_trainer[A], on a vocabulary of three."""
    trainer, sampler, gain = (
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([0.4, 0.4, 0.2]),
        torch.tensor([1.0, -2.0, 3.0]),
    )
    made = batch(trainer.log().tolist(), sampler.log().tolist(), gain.tolist(), [1.0, 1.0, 1.0])
    correct_for_sampler(made, cap=10.0)
    assert (sampler * made.extras["advantages"][0]).sum().item() == pytest.approx((trainer * gain).sum().item())


def test_impossible_caps_are_refused():
    with pytest.raises(ConfigError, match="rl.importance_cap=-1"):
        RLConfig(importance_cap=-1)
    with pytest.raises(ConfigError, match="rl.importance_cap=2.0: .*against the sampler"):
        RLConfig(importance_cap=2.0, old_logprobs=OldLogprobs.sampler)
