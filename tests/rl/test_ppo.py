"""PPO and mirror descent as stages: the value model learns beside the policy and rides along in checkpoints."""

import dataclasses

import pytest
import torch

from modeling.config import Head
from rl.batch import Row, collate
from rl.config import LossWeighting, RLConfig
from rl.critic import judge
from rl.objective_config import ObjectiveConfig, ObjectiveName, PPOConfig
from tests import gloo, stages
from tests.training import tiny
from training.config import OptimizerConfig
from training.state import build_state

NAMES = ("rl/value_loss", "rl/value_grad_norm", "train/loss", "train/grad_norm", "rl/kl", "rl/reward/mean")
PPO = dict(
    objective=ObjectiveConfig(name=ObjectiveName.ppo, kl_coef=0.01, kl_in_reward=True),
    ppo=PPOConfig(gae_lambda=0.95, optimizer=OptimizerConfig(lr=3e-3)),
    loss_weighting=LossWeighting.token_mean,
)
MIRROR = dict(objective=ObjectiveConfig(name=ObjectiveName.mirror_descent), steps=4)


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


def test_the_reference_is_left_behind_and_the_value_model_moves(whole):
    told = stages.metrics(whole, "rl/value", "rl/kl")
    assert len(told) == 6 and told[1][1] == pytest.approx(0, abs=1e-4)  # the reference is the policy at first
    assert told[3][1] != 0 and told[6][0] != 0


def test_advantages_are_the_rewards_above_the_values_brought_to_unit_variance():
    """A fresh value model says 0: each token's return is the answer's reward, and the advantage is that, whitened."""
    state = tiny.state(0)
    cfg = dataclasses.replace(state.model_cfg, head=Head.score, num_nextn_predict_layers=0)
    critic = build_state(cfg, state.optimizer_cfg, state.parallel_cfg, stage="zero")
    made = [
        Row([1, 2, 3, 4], 1, [0.0] * 3, 0.0, 1.1),
        Row([1, 2, 3], 2, [0.0], 0.0, 0.1),
        Row([5, 6, 7], 1, [0.0] * 2, 0.0),
    ]
    batches = [collate(part, [1 / 6] * len(part), 0) for part in (made[:2], made[2:])]
    for batch in batches:
        batch.extras["old_logprobs"] = torch.zeros(batch.tokens.shape)
    told = judge(critic, batches, RLConfig(objective=ObjectiveConfig(name=ObjectiveName.ppo)))
    masks = [batch.loss_weights > 0 for batch in batches]
    earned = torch.tensor([1.1, 1.1, 1.1, 0.1, 0.0, 0.0])
    returns, advantages = (
        torch.cat([batch.extras[name][mask] for batch, mask in zip(batches, masks, strict=True)])
        for name in ("returns", "advantages")
    )
    assert torch.allclose(returns, earned) and told["rl/explained_variance"] == pytest.approx(0)
    assert torch.allclose(advantages, (earned - earned.mean()) / earned.std(), atol=1e-5)
    assert all((batch.extras["advantages"][~mask] == 0).all() for batch, mask in zip(batches, masks, strict=True))


def test_memory_by_part_is_told_once(whole):
    parts = "policy reference critic optimizer gradients activations peak".split()
    told = stages.metrics(whole, *(f"memory/{part}_gib" for part in parts))
    assert set(told) == {1} and all(size > 0 for size in told[1])
    policy, reference, critic, optimizer, gradients, *_ = told[1]
    assert reference == policy and 0.5 * policy < critic < policy  # without head and MTP
    assert gradients == pytest.approx(policy + critic, rel=0.05)


@pytest.mark.parametrize("layout", [{}, {"pipeline": 2}], ids=["data", "pipeline"])
def test_two_ranks_do_what_one_does(layout, base, whole, tmp_path):
    """Pipeline: policy and value model have a layer on each rank; the values come from the last one."""
    gloo.run(stages.run_zero, base, str(tmp_path), None, PPO | dict(steps=1), layout, ranks=2)
    one, two = (stages.metrics(folder, *NAMES)[1] for folder in (whole, tmp_path))
    assert two[:4] == pytest.approx(one[:4], rel=1e-3) and two[5] == pytest.approx(one[5])


def test_split_matrices_do_what_whole_ones_do_and_resume(base, whole, tmp_path):
    settings = PPO | dict(steps=2, save_every=1, evaluate_every=9)
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path), 2, settings, {"tensor": 2}, ranks=2)
    gloo.run(stages.run_zero, base, str(tmp_path), None, settings, {"tensor": 2}, ranks=2)
    told = stages.logged(tmp_path, *NAMES)
    assert told[1][0][:4] == pytest.approx(stages.metrics(whole, *NAMES)[1][:4], rel=1e-3)
    assert len(told[2]) == 2 and told[2][0] == told[2][1]


def test_mirror_descent_is_held_and_a_killed_run_goes_on_bit_for_bit(base, tmp_path):
    names = ("train/loss", "train/grad_norm", "rl/squared_log_ratio", "rl/reward/mean")
    gloo.run(stages.run_zero, base, str(tmp_path / "whole"), None, MIRROR, ranks=1)
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path / "killed"), 3, MIRROR, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path / "killed"), None, MIRROR, ranks=1)
    whole, killed = (stages.metrics(tmp_path / name, *names) for name in ("whole", "killed"))
    assert killed == whole and all(step[2] > 0 for step in whole.values())
