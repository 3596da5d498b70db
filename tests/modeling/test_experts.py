"""Batched experts against Megatron's SequentialMLP: the same weights, outputs, gradients and checkpoint keys."""

import pytest
import torch

from modeling.config import Experts
from tests.training import tiny
from training.losses import next_token_loss
from training.schedules import Now
from training.step import train_step


def _stacked(state, name: str) -> dict[str, torch.Tensor]:
    """weight1 and weight2 of the sequential experts, stacked as ours are."""
    out = {}
    for key, value in (tiny.gradients(state) if name == "grad" else tiny.weights(state)).items():
        head, found, tail = key.partition(".local_experts.")
        if not found:
            out[key] = value
        else:
            which = "weight1" if "linear_fc1" in tail else "weight2"
            out.setdefault(f"{head}.{which}", []).append(value)
    return {key: torch.stack(v) if isinstance(v, list) else v for key, v in out.items()}


def _pair(**model):
    ours = tiny.state(3, model=model | {"experts": Experts.batched})
    theirs = tiny.state(3, model=model | {"experts": Experts.sequential})
    return ours, theirs


def test_initial_weights_are_megatrons():
    ours, theirs = _pair()
    assert any(name.endswith("experts.weight1") for name in tiny.weights(ours))
    tiny.close(tiny.weights(ours), _stacked(theirs, "weight"), 0)


def test_loss_and_gradients_are_megatrons():
    ours, theirs = _pair(routed_scaling_factor=2.5)
    now = Now(lr_scale=0.0, mtp_lambda=0.3)
    losses = [train_step(s, [tiny.rows(1)], next_token_loss, now)["train/loss"] for s in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    tiny.close(tiny.gradients(ours), _stacked(theirs, "grad"), 1e-4)


def test_an_expert_without_tokens_gets_no_gradient():
    state = tiny.state(0, model={"num_nextn_predict_layers": 0})
    for router in state.routers:
        router.expert_bias[0] = -100.0
    train_step(state, [tiny.rows(1)], next_token_loss, Now(lr_scale=0.0))
    gradient = tiny.gradients(state)["decoder.layers.1.mlp.experts.weight1"]
    assert not gradient[0].any() and gradient[1].any()


def _sharded(state, part: str) -> dict[str, tuple[int, ...]]:
    """Key and global shape of each expert tensor; Megatron cuts its first one into gate and up only when saving."""
    found = {}
    for name, entry in state.module.sharded_state_dict().items():
        if part in name and not name.endswith("_extra_state"):
            first = entry.build()[0] if hasattr(entry, "build") else entry
            found[first.key] = tuple(first.global_shape)
    return found


def test_checkpoint_keys_and_shapes_are_megatrons():
    ours, theirs = _pair()
    expected = _sharded(theirs, ".local_experts.")
    assert len(expected) == 4 and _sharded(ours, ".experts.weight") == expected
