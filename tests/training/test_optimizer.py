"""AdamW against torch's own; how the chain is put together."""

import pytest
import torch

from infra.errors import ConfigError
from tests.training import tiny
from training.optimizer import AdamW, OptimizerConfig, OptimizerName, chained, clip_gradients, main_param, set_lr


def test_adamw_equals_torch():
    torch.manual_seed(0)
    ours = [torch.randn(5, 7), torch.randn(3)]
    theirs = [p.clone() for p in ours]
    settings = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    a, b = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for _ in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_parameter_without_gradient_stays():
    p, q = torch.ones(3), torch.ones(3)
    optimizer = AdamW([p, q], lr=0.1, weight_decay=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(p, torch.ones(3)) and torch.equal(q, torch.ones(3))
    assert torch.equal(optimizer.state[q]["exp_avg"], torch.zeros(3))


@pytest.mark.parametrize("name", OptimizerName)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name):
    state = tiny.state(optimizer={"name": name})
    grouped = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(state.module.parameters())
    for group in state.optimizer.param_groups:
        decay = [0.0 if p.dim() == 1 else 0.1 for p in group["params"]]
        assert decay == [group["weight_decay"]] * len(decay)


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw():
    state = tiny.state(optimizer={"name": OptimizerName.muon})
    names = {p: name for name, p in state.module.named_parameters()}
    muon = {names[p] for g in state.optimizer.param_groups if "momentum" in g for p in g["params"]}
    assert "decoder.layers.1.mlp.shared_experts.linear_fc1.weight" in muon
    assert any(".experts." in name for name in muon)
    assert not any(part in name for name in muon for part in ("embedding", "output_layer", "router", "norm"))


def test_learning_rates_follow_one_scale_and_resumes_may_change_them():
    state = tiny.state(optimizer={"name": OptimizerName.muon})
    set_lr(state.optimizer, OptimizerConfig(lr=1e-3, muon_lr=1e-2), lr_scale=0.5)
    assert {g["lr"] for g in state.optimizer.param_groups} == {5e-4, 5e-3}


def test_clipping_scales_to_the_norm():
    state = tiny.state()
    for p in state.module.parameters():
        p.main_grad.fill_(1.0)
    state.optimizer.prepare_grads()
    norm = state.optimizer.get_grad_norm()
    assert norm == pytest.approx(sum(p.numel() for p in state.module.parameters()) ** 0.5, rel=1e-5)
    clip_gradients(state.optimizer, 2.0, norm)
    assert state.optimizer.get_grad_norm() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("layout", [{}, {"zero1": True}])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_main_param_is_what_the_optimizer_updates(layout, dtype):
    from modeling.config import DType

    state = tiny.state(layout=layout, model={"dtype": DType[dtype]})
    updated = {id(p) for part in chained(state.optimizer) for g in part.param_groups for p in g["params"]}
    assert {id(main_param(state.optimizer, p)) for p in state.module.parameters()} == updated


def test_muon_refuses_split_matrices():
    with pytest.raises(ConfigError, match="parallel.zero1=True"):
        tiny.state(optimizer={"name": OptimizerName.muon}, layout={"zero1": True})
