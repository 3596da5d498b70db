"""PPO and mirror descent as stages: the value model learns beside the policy and rides along in checkpoints."""

import pytest

from rl.config import LossWeighting
from rl.objective_config import ObjectiveConfig, ObjectiveName, PPOConfig
from tests import gloo, stages
from training.config import OptimizerConfig

NAMES = ("rl/value_loss", "rl/value_grad_norm", "train/loss", "train/grad_norm", "rl/kl", "rl/reward/mean")
PPO = dict(
    objective=ObjectiveConfig(name=ObjectiveName.ppo, kl_coef=0.01, kl_in_reward=True),
    ppo=PPOConfig(gae_lambda=0.95, optimizer=OptimizerConfig(lr=3e-3)),
    loss_weighting=LossWeighting.token_mean,
)
MIRROR = dict(objective=ObjectiveConfig(name=ObjectiveName.mirror_descent))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 6000, ranks=1)[0]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    gloo.run(stages.run_zero, base, str(folder), None, PPO, ranks=1)
    return folder


def test_a_killed_ppo_goes_on_with_the_same_losses_bit_for_bit(base, whole, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path), 3, PPO, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path), None, PPO, ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)
    assert len(stages.logged(tmp_path, *NAMES)[3]) == 2  # it was done again, from the checkpoint of step 2


def test_values_come_to_know_the_returns(whole):
    told = stages.metrics(whole, "rl/value_loss", "rl/value", "rl/explained_variance", "rl/kl")
    assert len(told) == 6
    assert told[1][2] == pytest.approx(0, abs=1e-6)  # values begin at zero
    assert told[1][3] == pytest.approx(0, abs=1e-4) and told[3][3] != 0  # the reference is the policy at first


def test_memory_by_part_is_told_once(whole):
    parts = "policy reference critic optimizer gradients activations peak".split()
    told = stages.metrics(whole, *(f"memory/{part}_gib" for part in parts))
    assert set(told) == {1} and all(size > 0 for size in told[1])
    policy, reference, critic, optimizer, gradients, *_ = told[1]
    assert reference == policy and 0.5 * policy < critic < policy  # without head and MTP
    assert gradients == pytest.approx(policy + critic, rel=0.05)


def test_two_ranks_do_what_one_does(base, whole, tmp_path):
    gloo.run(stages.run_zero, base, str(tmp_path), None, PPO | dict(steps=1), ranks=2)
    one, two = (stages.metrics(folder, *NAMES)[1] for folder in (whole, tmp_path))
    assert two[:4] == pytest.approx(one[:4], rel=1e-3) and two[5] == pytest.approx(one[5])


def test_split_matrices_do_what_whole_ones_do_and_resume(base, whole, tmp_path):
    """The vocabulary of the base does not divide by two ranks: the base of test_layouts does."""
    folder = tmp_path / "base"
    split_base = gloo.run(stages.run_pretrain, str(folder), None, 3000, ranks=1)[0]
    settings = PPO | dict(steps=3, save_every=1)
    gloo.run(stages.run_zero, split_base, str(tmp_path / "one"), None, settings | dict(steps=1), ranks=1)
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, split_base, str(tmp_path / "two"), 2, settings, {"tensor": 2}, ranks=2)
    gloo.run(stages.run_zero, split_base, str(tmp_path / "two"), None, settings, {"tensor": 2}, ranks=2)
    one, two = (stages.logged(tmp_path / name, *NAMES) for name in ("one", "two"))
    assert two[1][0][:4] == pytest.approx(one[1][0][:4], rel=1e-3)
    assert len(two[2]) == 2 and two[2][0] == two[2][1]


def test_mirror_descent_is_held_and_a_killed_run_goes_on_bit_for_bit(base, tmp_path):
    names = ("train/loss", "train/grad_norm", "rl/squared_log_ratio", "rl/reward/mean")
    gloo.run(stages.run_zero, base, str(tmp_path / "whole"), None, MIRROR, ranks=1)
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path / "killed"), 3, MIRROR, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path / "killed"), None, MIRROR, ranks=1)
    whole, killed = (stages.metrics(tmp_path / name, *names) for name in ("whole", "killed"))
    assert killed == whole and all(step[2] > 0 for step in whole.values())
