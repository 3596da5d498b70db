"""PPO, RLOO, REINFORCE, mirror descent and DPO against numbers worked out by hand and finite differences."""

import math
from functools import partial

import pytest
import torch

from infra.errors import ConfigError
from rl.config import RLConfig
from rl.objective_config import AdvantageKind, ObjectiveConfig, ObjectiveName, PPOConfig
from rl.objectives.dpo import dpo_loss
from rl.objectives.mirror_descent import mirror_descent_loss
from rl.objectives.ppo import ppo_loss, value_loss
from rl.objectives.reinforce import reinforce_loss
from rl.objectives.rloo import rloo_loss
from rl.step import LOSSES
from tests.rl.rows import random_rows, rows

LOG = math.log


def logs(*values):
    return torch.tensor([[LOG(v) for v in row] for row in values], dtype=torch.float64, requires_grad=True)


def test_every_name_has_a_loss_and_a_baseline():
    assert set(LOSSES) == set(ObjectiveName)
    assert all(ObjectiveConfig(name=name).own_advantage is not AdvantageKind.auto for name in ObjectiveName)


def test_ppo_clips_each_token_by_hand():
    # ratios 1.5 and 0.5, advantages +1 and -2, clip [0.8, 1.2]: min(1.5, 1.2) and min(-1, -1.6)
    one = rows([[0.5, 0.5]], advantages=[[1, -2]], old_logprobs=[[0, 0]])
    out = ppo_loss(one, logs([1.5, 0.5]), ObjectiveConfig(name=ObjectiveName.ppo))
    assert out.loss.item() == pytest.approx(-(1.2 - 1.6) / 2)
    assert out.metrics["rl/clip_frac"].item() == 1.0


def test_ppo_has_its_kl_in_the_reward_or_in_the_loss():
    one = rows([[1.0]], advantages=[[0.0]], old_logprobs=[[0.0]], ref_logprobs=[[LOG(2)]])
    in_loss = ppo_loss(one, logs([1.0]), ObjectiveConfig(name=ObjectiveName.ppo, kl_coef=0.5))
    in_reward = ppo_loss(one, logs([1.0]), ObjectiveConfig(name=ObjectiveName.ppo, kl_coef=0.5, kl_in_reward=True))
    assert in_loss.loss.item() == pytest.approx(0.5 * (1 - LOG(2))) and in_reward.loss.item() == 0.0


def test_values_are_held_within_the_clip_by_hand():
    # returns 1; old values 0; values 0.5 (clipped to 0.2: 0.8^2 is the larger) and -0.5 (clipped -0.2: 1.5^2 is)
    one = rows([[0.5, 0.5]], returns=[[1, 1]], old_values=[[0, 0]])
    values = torch.tensor([[0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    out = value_loss(one, values, 0.2)
    assert out.loss.item() == pytest.approx(0.5 * (0.64 + 2.25) / 2)
    assert out.metrics["rl/value_clip_frac"].item() == 0.5 and out.metrics["rl/value"].item() == 0.0
    out.loss.backward()
    assert values.grad[0].tolist() == pytest.approx([0.0, 0.5 * -1.5])


def test_rloo_clips_the_ratio_of_the_whole_answer():
    # two answers of weight 1/2: ratio 1.1 * 1.1 = 1.21 is clipped to 1.2 (A = 1); 0.5 * 1.4 = 0.7 to 0.8 (A = -2)
    one = rows([[0.25, 0.25], [0.25, 0.25]], advantages=[[1, 1], [-2, -2]], old_logprobs=[[0, 0], [0, 0]])
    out = rloo_loss(one, logs([1.1, 1.1], [0.5, 1.4]), ObjectiveConfig(name=ObjectiveName.rloo))
    assert out.loss.item() == pytest.approx(-(1.2 - 1.6) / 2)
    assert out.metrics["rl/clip_frac"].item() == 1.0


def test_rloo_and_reinforce_have_the_same_gradient_where_the_policy_has_not_moved():
    one, logprobs = random_rows(0, 4, 8, "advantages")
    one.extras["old_logprobs"] = logprobs.detach()
    gradients = []
    for loss in (rloo_loss, reinforce_loss):
        out = loss(one, logprobs, ObjectiveConfig(name=ObjectiveName.rloo)).loss
        gradients.append(torch.autograd.grad(out, logprobs)[0])
    # by hand: -A / N on each of the answer's tokens
    by_hand = torch.where(one.loss_weights > 0, -one.extras["advantages"] / 4, 0.0)
    assert torch.allclose(gradients[0], by_hand) and torch.allclose(gradients[1], by_hand)


def test_reinforce_by_hand():
    # log p = -1 - 3 = -4 for A = 2, -0.5 for A = -1; weights of the answers 1/2
    one = rows([[0.25, 0.25], [0.5, 0.0]], advantages=[[2, 2], [-1, 0]])
    logprobs = torch.tensor([[-1, -3], [-0.5, 7]], dtype=torch.float64)
    out = reinforce_loss(one, logprobs, ObjectiveConfig(name=ObjectiveName.reinforce))
    assert out.loss.item() == pytest.approx(-(2 * -4 + -1 * -0.5) / 2)


def test_mirror_descent_by_hand():
    # l = log(1.2) + log(1.5) = log 1.8 and log 0.5; tau = 2
    one = rows([[0.25, 0.25], [0.5, 0]], advantages=[[0.5, 0.5], [-0.5, 0]], old_logprobs=[[0, 0], [0, 0]])
    cfg = ObjectiveConfig(name=ObjectiveName.mirror_descent, tau=2.0)
    out = mirror_descent_loss(one, logs([1.2, 1.5], [0.5, 3]), cfg)
    by_hand = [LOG(1.8) ** 2 - 0.5 * LOG(1.8), LOG(0.5) ** 2 + 0.5 * LOG(0.5)]
    assert out.loss.item() == pytest.approx(sum(by_hand) / 2)


@pytest.mark.parametrize("kind", [AdvantageKind.group_mean, AdvantageKind.log_partition])
def test_mirror_descent_has_the_gradient_of_kimis_squared_difference(kind):
    """(r - tau log Z - tau log(p / p_i))^2 of K §2.3.2, written out; its gradient is ours times 2 tau."""
    from rl.advantages import group_advantages

    tau, rewards = 0.7, torch.tensor([[1.0, 0.0, 0.1, 1.1]], dtype=torch.float64)
    tau_log_z = rewards.mean() if kind is AdvantageKind.group_mean else tau * (rewards / tau).exp().mean().log()
    one, logprobs = random_rows(3, 4, 8, "old_logprobs")
    mask = one.loss_weights > 0
    log_ratio = torch.where(mask, logprobs - one.extras["old_logprobs"], 0.0).sum(1)
    written_out = (rewards[0] - tau_log_z - tau * log_ratio).square().mean()
    one.extras["advantages"] = group_advantages(rewards, kind, tau=tau).T.expand(4, 8) * mask
    ours = mirror_descent_loss(one, logprobs, ObjectiveConfig(name=ObjectiveName.mirror_descent, tau=tau)).loss
    gradient, by_hand = (torch.autograd.grad(loss, logprobs)[0] for loss in (ours, written_out))
    assert torch.allclose(gradient * 2 * tau, by_hand)


def test_dpo_by_hand():
    # l: log 2 and log 0.5; beta 0.5: -log sigmoid(0.5 log 4) = -log(2/3). NLL of the chosen: its mean over two tokens
    one = rows([[0.25, 0.25], [0.5, 0]], ref_logprobs=[[LOG(0.1), LOG(0.2)], [LOG(0.5), 0]])
    logprobs = logs([0.2, 0.2], [0.25, 9])
    out = dpo_loss(one, logprobs, beta=0.5)
    assert out.loss.item() == pytest.approx(LOG(1.5))
    assert out.metrics["dpo/accuracy"].item() == 1.0
    assert out.metrics["dpo/margin"].item() == pytest.approx(0.5 * LOG(4))
    with_nll = dpo_loss(one, logprobs, beta=0.5, nll_coef=2.0)
    assert with_nll.loss.item() == pytest.approx(LOG(1.5) - 2 * LOG(0.2))


def test_a_share_without_pairs_has_a_loss_of_zero_and_a_gradient():
    blank = rows([[0.0, 0.0]], ref_logprobs=[[0, 0]])
    logprobs = logs([0.5, 0.5])
    out = dpo_loss(blank, logprobs, beta=0.1, nll_coef=1.0)
    out.loss.backward()
    assert out.loss.item() == 0 and (logprobs.grad == 0).all() and all(m.item() == 0 for m in out.metrics.values())


def objective(name, **kwargs):
    return partial(LOSSES[name], cfg=ObjectiveConfig(name=name, **kwargs))


GRADIENTS = {
    "grpo": objective(ObjectiveName.grpo, kl_coef=0.1),
    "ppo": objective(ObjectiveName.ppo, kl_coef=0.1),
    "rloo": objective(ObjectiveName.rloo, kl_coef=0.1),
    "reinforce": objective(ObjectiveName.reinforce, kl_coef=0.1),
    "mirror_descent": objective(ObjectiveName.mirror_descent, tau=0.7),
    "dpo": partial(dpo_loss, beta=0.3, nll_coef=0.5),
    "value": partial(value_loss, clip_value=0.2),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences(name, seed):
    needed = "old_values", "returns", "old_logprobs", "ref_logprobs", "advantages"
    one, logprobs = random_rows(seed, 4, 6, *needed)
    assert torch.autograd.gradcheck(lambda lp: GRADIENTS[name](one, lp).loss, (logprobs,))


@pytest.mark.parametrize("name", GRADIENTS)
def test_micro_batches_add_up(name):
    needed = "old_values", "returns", "old_logprobs", "ref_logprobs", "advantages"
    one, logprobs = random_rows(7, 4, 6, *needed)
    whole = GRADIENTS[name](one, logprobs)
    parts = []
    for half in (slice(0, 2), slice(2, 4)):
        extras = {key: value[half] for key, value in one.extras.items()}
        parts.append(GRADIENTS[name](rows(one.loss_weights[half], **extras), logprobs[half]))
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item())
    for metric in whole.metrics:
        assert sum(part.metrics[metric].item() for part in parts) == pytest.approx(whole.metrics[metric].item())


@pytest.mark.parametrize("name", GRADIENTS)
def test_masked_tokens_cannot_reach_loss_or_gradient(name):
    needed = "old_values", "returns", "old_logprobs", "ref_logprobs", "advantages"
    one, logprobs = random_rows(1, 4, 6, *needed)
    wild = torch.where(one.loss_weights > 0, logprobs.detach(), 900.0).requires_grad_()
    loss = GRADIENTS[name](one, wild).loss
    assert loss.item() == pytest.approx(GRADIENTS[name](one, logprobs).loss.item())
    loss.backward()
    assert (wild.grad[one.loss_weights == 0] == 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ObjectiveConfig(tau=0.0), "rl.objective.tau=0.0"),
        (lambda: ObjectiveConfig(kl_in_reward=True), "rl.objective.kl_in_reward"),
        (lambda: ObjectiveConfig(name=ObjectiveName.mirror_descent, kl_coef=0.1), "rl.objective.kl_coef=0.1"),
        (lambda: PPOConfig(gae_lambda=1.5), "rl.ppo.gae_lambda=1.5"),
        (lambda: PPOConfig(clip_value=0.0), "rl.ppo.clip_value"),
        (lambda: RLConfig(objective=ObjectiveConfig(name=ObjectiveName.rloo), importance_cap=2.0), "importance_cap"),
        (
            lambda: RLConfig(objective=ObjectiveConfig(name=ObjectiveName.ppo), advantage=AdvantageKind.group_std),
            "rl.advantage=group_std",
        ),
        (lambda: RLConfig(group_size=1), "rl.group_size=1"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_the_baseline_is_the_objectives_own_unless_it_is_set():
    kinds = {name: RLConfig(objective=ObjectiveConfig(name=name)).baseline for name in ObjectiveName}
    assert kinds[ObjectiveName.grpo] is AdvantageKind.group_std
    assert kinds[ObjectiveName.rloo] is AdvantageKind.leave_one_out
    assert kinds[ObjectiveName.reinforce] is AdvantageKind.batch_mean
    assert kinds[ObjectiveName.mirror_descent] is AdvantageKind.group_mean
    assert RLConfig(advantage=AdvantageKind.leave_one_out).baseline is AdvantageKind.leave_one_out
    # PPO and REINFORCE compare nothing within a group; equal rewards teach PPO and hold mirror descent all the same.
    assert RLConfig(group_size=1, objective=ObjectiveConfig(name=ObjectiveName.ppo)).group_size == 1
    assert RLConfig().drops_zero_variance
    for name in (ObjectiveName.ppo, ObjectiveName.mirror_descent):
        assert not RLConfig(objective=ObjectiveConfig(name=name)).drops_zero_variance


def test_a_forgotten_optimiser_moves_as_a_fresh_one():
    from types import SimpleNamespace

    from training.optimizer import AdamW, forget

    def moved(after: int) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = AdamW([weight], lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(after):
            weight.grad = torch.randn(3, generator=generator)
            optimizer.step()
        forget(SimpleNamespace(optimizer=optimizer, is_stub_optimizer=False))
        weight.data.fill_(1.0)
        weight.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer.step()
        return weight.detach()

    assert torch.equal(moved(3), moved(0))
