"""Group-relative advantages against hand-made numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.advantages import AdvantageKind, group_advantages, zero_variance


def test_half_right_group_has_advantages_of_one():
    assert group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]])).tolist() == [[1.0, -1.0, -1.0, 1.0]]


def test_one_right_of_four_by_hand():
    # mean 1/4, population std sqrt(3)/4: (3/4)/(sqrt(3)/4) = sqrt(3) and (-1/4)/(sqrt(3)/4) = -1/sqrt(3)
    got = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    assert got[0].tolist() == pytest.approx([math.sqrt(3)] + [-1 / math.sqrt(3)] * 3)


def test_without_std_and_leave_one_out_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert group_advantages(rewards, AdvantageKind.group_mean)[0].tolist() == [0.75, -0.25, -0.25, -0.25]
    # leave one out: 1 - 0 for the right one; 0 - 1/3 for the others
    got = group_advantages(rewards, AdvantageKind.leave_one_out)[0].tolist()
    assert got == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_the_mean_of_the_batch_and_kimis_log_partition_by_hand():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert group_advantages(rewards, AdvantageKind.batch_mean).tolist() == [[0.25, -0.75], [0.25, 0.25]]
    # tau log((e^(1/tau) + 1) / 2) with tau = 0.5
    log_z = 0.5 * math.log((math.e**2 + 1) / 2)
    got = group_advantages(rewards, AdvantageKind.log_partition, tau=0.5)
    assert got[0].tolist() == pytest.approx([1 - log_z, -log_z]) and got[1].tolist() == [0.0, 0.0]
    far = group_advantages(rewards, AdvantageKind.log_partition, tau=1e4)
    assert torch.allclose(far, group_advantages(rewards, AdvantageKind.group_mean), atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [AdvantageKind.group_std, AdvantageKind.group_mean, AdvantageKind.leave_one_out, AdvantageKind.log_partition],
)
def test_group_of_equal_rewards_has_zero_advantage(kind):
    rewards = torch.tensor([[0.1] * 5, [1.0] * 5])
    assert group_advantages(rewards, kind).abs().max() < 1e-6
    assert zero_variance(rewards).all()


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=16), st.floats(0.1, 10), st.floats(-5, 5))
def test_advantages_do_not_change_when_rewards_are_shifted_or_scaled(rewards, scale, shift):
    one = torch.tensor([rewards], dtype=torch.float64)
    if one.std() < 1e-3:
        return
    assert torch.allclose(group_advantages(one), group_advantages(one * scale + shift), atol=1e-6)
    assert abs(group_advantages(one).sum()) < 1e-6
