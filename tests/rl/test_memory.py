"""Memory by part against counts of parameters, and activations against a product worked out by hand."""

import dataclasses

import pytest
import torch

from modeling.config import Head
from rl.memory import Activations, memory_by_part
from rl.policy import Reference
from tests.training import tiny
from training.losses import next_token_loss
from training.schedules import Now
from training.state import build_state
from training.step import train_step

GIB = 2**30


def test_what_is_held_for_backward_is_counted_once_and_let_go():
    state = tiny.state(0)
    meter = Activations(state)
    weight = next(state.module.parameters())
    x = torch.ones(1000, requires_grad=True)  # 4000 bytes
    with meter.measured():
        y = x * weight.flatten()[0]  # holds x and a weight, which is not counted
        z = (x.exp() * x).sum()  # holds x, which is held already, and exp(x), which both nodes hold
        assert meter.peak == 8000
        z.backward()
        y.sum().backward()
        again = (x.exp() * x).sum()
        assert meter.peak == 8000
        again.backward()
    assert meter.peak == 8000


def test_the_parts_are_those_of_the_networks():
    state = tiny.state(0)
    cfg = dataclasses.replace(state.model_cfg, head=Head.score, num_nextn_predict_layers=0)
    critic = build_state(cfg, state.optimizer_cfg, state.parallel_cfg, stage="zero")
    reference, meter = Reference(state.module), Activations(state)
    with meter.measured():
        train_step(state, [tiny.rows(0)], next_token_loss, Now(lr_scale=1.0))
    alone = memory_by_part(state, None, meter)
    state.beside["critic"] = critic
    with meter.measured():
        for network in (state, critic):
            train_step(network, [tiny.rows(0)], next_token_loss, Now(lr_scale=1.0))
    both = memory_by_part(state, reference, meter)

    policy, value = (sum(p.numel() for p in network.module.parameters()) for network in (state, critic))
    bias, value_bias = (sum(r.expert_bias.numel() for r in network.routers) for network in (state, critic))
    head, scalar = tiny.VOCAB * 32, 32
    mtp = sum(p.numel() for p in state.mtp_params)
    assert policy - mtp - head + scalar == value and mtp > 0
    assert alone["memory/policy_gib"] * GIB == pytest.approx(4 * (policy + bias))
    assert alone["memory/reference_gib"] == alone["memory/critic_gib"] == 0
    assert alone["memory/optimizer_gib"] * GIB == pytest.approx(8 * policy)
    assert alone["memory/gradients_gib"] * GIB == pytest.approx(4 * policy, rel=0.01)  # buffers are padded
    assert both["memory/reference_gib"] * GIB == pytest.approx(4 * (policy + bias))
    assert both["memory/critic_gib"] * GIB == pytest.approx(4 * (value + value_bias))
    assert both["memory/optimizer_gib"] * GIB == pytest.approx(8 * (policy + value))
    assert both["memory/gradients_gib"] * GIB == pytest.approx(4 * (policy + value), rel=0.01)
    # 8 rows of 16 tokens and 32 numbers, in FP32: a layer holds some of them, and the head's logits are the largest.
    assert alone["memory/activations_gib"] * GIB > 8 * 16 * (2 * 32 + tiny.VOCAB) * 4
    assert alone["memory/peak_gib"] > alone["memory/activations_gib"]
