"""Muon against the singular value decomposition and a plain loop."""

import pytest
import torch
import torch.distributed as dist

from tests.training import tiny
from training import muon
from training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape):
    torch.manual_seed(0)
    matrices = torch.randn(5, *shape)
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonalize(matrices) @ vt.mT  # diagonal in the matrix's own directions
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 1e-3
    large = s / matrices.norm(dim=(1, 2))[:, None] > 0.02
    assert diagonal[large].min() > 0.65 and diagonal[large].max() < 1.25


def _step(params: list[torch.Tensor], grads: list[torch.Tensor], steps: int = 3) -> Muon:
    tiny.state()  # process groups
    optimizer = Muon(params, process_group=dist.group.WORLD, lr=0.1, momentum=0.9)
    for _ in range(steps):
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return optimizer


def test_muon_equals_a_plain_loop(monkeypatch):
    monkeypatch.setattr(muon, "_compute_type", lambda device: torch.float32)
    torch.manual_seed(0)
    params = [torch.randn(8, 6), torch.randn(6, 8), torch.randn(8, 6)]
    grads = [torch.randn_like(p) for p in params]
    expected = []
    for p, g in zip(params, grads, strict=True):
        p, momentum = p.clone(), torch.zeros_like(p)
        for _ in range(3):
            momentum = 0.9 * momentum + 0.1 * g
            update = orthogonalize((0.1 * g + 0.9 * momentum)[None])[0]
            p -= 0.1 * max(1, p.shape[0] / p.shape[1]) ** 0.5 * update
        expected.append(p)
    _step(params, grads)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48)])
def test_moonlights_scale_gives_updates_of_the_same_rms_whatever_the_shape(shape):
    tiny.state()  # process groups
    torch.manual_seed(0)
    p = torch.zeros(shape)
    optimizer = Muon([p], process_group=dist.group.WORLD, lr=0.01, momentum=0.9, rms=0.2)
    p.grad = torch.randn(shape)
    optimizer.step()
    rms = p.square().mean().sqrt().item()  # of 16 singular values near 1 in 48 x 16 entries: 0.2 sqrt(48) / sqrt(48)
    assert rms == pytest.approx(0.01 * 0.2, rel=0.25)


def test_a_stack_of_experts_equals_separate_matrices():
    torch.manual_seed(0)
    stack, grads = torch.randn(4, 8, 6), torch.randn(4, 8, 6)
    separate = [m.clone() for m in stack]
    _step(separate, list(grads))
    _step([stack], [grads])
    torch.testing.assert_close(stack, torch.stack(separate))


def test_weight_decay_shrinks_and_missing_gradient_holds_still():
    p, q = torch.ones(4, 4), torch.ones(4, 4)
    optimizer = _step([p], [torch.zeros(4, 4)], steps=0)
    optimizer.add_param_group({"params": [q]})
    optimizer.param_groups[0]["weight_decay"] = 0.5
    p.grad = torch.zeros(4, 4)
    optimizer.step()
    torch.testing.assert_close(p, torch.full((4, 4), 0.95))
    assert torch.equal(q, torch.ones(4, 4))


def test_work_is_shared_out_evenly_and_completely():
    shapes = (torch.Size((128, 128)),) * 24 + (torch.Size((128, 64)),) * 24 + (torch.Size((512, 128)),)
    shares = muon._share_out(shapes, 2)
    assert sorted(i for share in shares for i in share) == list(range(len(shapes)))
    work = [sum(shapes[i].numel() * min(shapes[i]) for i in share) for share in shares]
    assert max(work) / min(work) < 1.05
