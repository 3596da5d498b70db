"""GAE against its definition as a double loop; rewards of tokens by hand."""

import pytest
import torch

from rl.gae import gae, token_rewards


def by_definition(rewards, values, gamma, gae_lambda):
    """Schulman et al. 2016 eq. 16, one row of a response alone: A_t = sum over l of (gamma lambda)^l delta_{t+l}."""
    n = len(rewards)
    after = [*values[1:], 0.0]
    delta = [rewards[t] + gamma * after[t] - values[t] for t in range(n)]
    return [sum((gamma * gae_lambda) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_gae_is_the_double_sum(gamma, gae_lambda):
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(5, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    spans = [(0, 9), (3, 9), (2, 5), (4, 5), (0, 1)]
    mask = torch.zeros(5, 9, dtype=torch.bool)
    for row, (start, end) in zip(mask, spans, strict=True):
        row[start:end] = True
    advantages, returns = gae(rewards, values, mask, gamma, gae_lambda)
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()
    for i, (start, end) in enumerate(spans):
        wanted = by_definition(rewards[i, start:end].tolist(), values[i, start:end].tolist(), gamma, gae_lambda)
        assert advantages[i, start:end].tolist() == pytest.approx(wanted)
        assert torch.allclose(returns[i, start:end], advantages[i, start:end] + values[i, start:end])


def test_with_lambda_one_the_return_is_what_was_earned():
    rewards = torch.tensor([[0.0, 0.5, 0.0, 2.0]])
    _, returns = gae(rewards, torch.tensor([[9.0, -3.0, 0.1, 7.0]]), torch.ones(1, 4, dtype=torch.bool), 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([2.5, 2.5, 2.0, 2.0])


def test_the_score_is_at_the_end_of_the_response_and_kl_on_each_token():
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    logprobs = torch.tensor([[9.0, -1.0, -2.0, 9.0], [-1.0, -1.0, -1.0, -1.0]])
    reference = torch.tensor([[5.0, -1.5, -1.0, 5.0], [-1.0, -1.0, -1.0, -3.0]])
    scores = torch.tensor([1.1, 0.1])
    plain = token_rewards(scores, logprobs, None, mask, 0.5)
    assert plain.tolist() == [[0, 0, pytest.approx(1.1), 0], [0, 0, 0, pytest.approx(0.1)]]
    held = token_rewards(scores, logprobs, reference, mask, 0.5)
    # -0.5 * (-1 + 1.5) = -0.25; 1.1 - 0.5 * (-2 + 1) = 1.6; 0.1 - 0.5 * (-1 + 3) = -0.9
    assert held[0].tolist() == pytest.approx([0, -0.25, 1.6, 0])
    assert held[1].tolist() == pytest.approx([0, 0, 0, -0.9])


def test_a_row_without_a_response_earns_nothing():
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert (token_rewards(torch.ones(1), torch.zeros(1, 3), None, nothing, 0.0) == 0).all()
