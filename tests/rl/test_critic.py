"""The value model: train_step teaches it."""

import dataclasses

import torch

from modeling.config import Head
from tests.training import tiny
from training.losses import LossOutput
from training.micro_batch import MicroBatch
from training.schedules import Now
from training.state import build_state
from training.step import token_logprobs, train_step


def test_train_step_teaches_values():
    state = tiny.state(0)
    cfg = dataclasses.replace(state.model_cfg, head=Head.score, num_nextn_predict_layers=0)
    critic = build_state(cfg, state.optimizer_cfg, state.parallel_cfg, stage="zero")
    batch = tiny.rows(0, batch=16)
    target = (batch.tokens % 2).float()  # what the prefix ends with is easily seen

    def squared(batch: MicroBatch, values: torch.Tensor) -> LossOutput:
        return LossOutput(loss=(batch.loss_weights * (values - target).square()).sum())

    losses = [train_step(critic, [batch], squared, Now(lr_scale=1.0))["train/loss"] for _ in range(30)]
    assert losses[0] > 0.4 and losses[-1] < 0.1
    (values,) = token_logprobs(critic.model, [batch])
    assert torch.allclose(((-values - target).square()).mean(), torch.tensor(losses[-1]), atol=0.05)
    assert critic.updates == 30 and state.updates == 0
