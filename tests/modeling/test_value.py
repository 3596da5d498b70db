"""The value model: a row of the vocabulary's head gives the same numbers, and train_step teaches it."""

import torch

from modeling.build import build_model
from modeling.value import make_value_model
from tests.training import tiny
from training.losses import LossOutput
from training.micro_batch import MicroBatch
from training.schedules import Now
from training.state import build_state
from training.step import token_logprobs, train_step


def test_values_are_what_a_row_of_the_head_would_give():
    tiny.state(0)  # process groups
    cfg = tiny.model_config(num_nextn_predict_layers=1)
    module = build_model(cfg)
    ids = torch.randint(0, tiny.VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(3, 9)
    with torch.no_grad():
        logits = module(ids, positions, None)
        row = module.output_layer.weight[5].clone()
        make_value_model(module)
        assert (module(ids, positions, None, labels=ids) == 0).all()
        module.output_layer.weight.copy_(row[None])
        module.output_layer.bias.fill_(0.25)
        values = module(ids, positions, None, labels=ids)
    assert values.dtype == torch.float32 and torch.allclose(values, logits[..., 5] + 0.25, atol=1e-6)
    assert not [name for name, _ in module.named_parameters() if name.startswith("mtp")]


def test_train_step_teaches_values():
    state = tiny.state(0)
    critic = build_state(state.model_cfg, state.optimizer_cfg, state.parallel_cfg, stage="zero", value_head=True)
    batch = tiny.rows(0, batch=16)
    target = (batch.tokens % 2).float()  # what the prefix ends with is easily seen

    def squared(batch: MicroBatch, values: torch.Tensor) -> LossOutput:
        return LossOutput(loss=(batch.loss_weights * (values - target).square()).sum())

    losses = [train_step(critic, [batch], squared, Now(lr_scale=1.0))["train/loss"] for _ in range(30)]
    assert losses[0] > 0.4 and losses[-1] < 0.1
    (values,) = token_logprobs(critic.model, [batch])
    assert torch.allclose(((-values - target).square()).mean(), torch.tensor(losses[-1]), atol=0.05)
    assert critic.updates == 30 and state.updates == 0
