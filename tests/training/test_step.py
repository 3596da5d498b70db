"""The training step on one rank: splitting changes nothing, the extra losses' gradients by hand, divergence."""

import pytest
import torch
import torch.nn.functional as F

from infra.errors import TrainingDiverged
from modeling.config import ScoringFunc
from tests.training import tiny
from training.config import OptimizerName
from training.data.packing import by_length_batches
from training.losses import LossOutput, next_token_loss
from training.schedules import Now
from training.step import MicroBatch, token_logprobs, train_step

# lr 0 leaves the weights, so the gradient of the step can be looked at afterwards.
LOOK = {"optimizer": {"clip_grad": 0.0}}


def _look(state, micro_batches, **now) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    metrics = train_step(state, micro_batches, next_token_loss, Now(lr_scale=0.0, **now))
    return metrics, tiny.gradients(state)


@pytest.mark.parametrize("parts", [2, 8])
def test_splitting_into_micro_batches_changes_nothing(parts):
    state, step = tiny.state(**LOOK, model={"aux_loss_alpha": 0.1}), tiny.rows(0)
    whole, gradient = _look(state, [step], mtp_lambda=0.3)
    metrics, parted = _look(state, tiny.split(step, parts), mtp_lambda=0.3)
    assert metrics["train/loss"] == pytest.approx(whole["train/loss"], rel=1e-6)
    assert metrics["train/grad_norm"] == pytest.approx(whole["train/grad_norm"], rel=1e-6)
    assert metrics["moe/maxvio"] == whole["moe/maxvio"]
    tiny.close(parted, gradient, 2e-6)


DOCUMENTS = [list(range(n, 2 * n)) for n in (17, 5, 9, 13, 3, 6)]


def _dealt(max_tokens: int, rank: int = 0, world: int = 1) -> list[MicroBatch]:
    return by_length_batches(DOCUMENTS, rank=rank, world=world, max_tokens=max_tokens, pad_id=0)


@pytest.mark.parametrize("mtp_lambda", [0.0, 0.3])
def test_how_rows_are_dealt_and_padded_changes_nothing(mtp_lambda):
    now = dict(mtp_lambda=mtp_lambda, bias_speed=0.01)
    seen = []
    for dealt in (_dealt(1000), _dealt(30), [*_dealt(1000, 0, 2), *_dealt(1000, 1, 2)]):
        state = tiny.state(**LOOK, model={"aux_loss_alpha": 0.5})
        metrics, gradient = _look(state, dealt, **now)
        seen.append((metrics, gradient, [router.expert_bias.clone() for router in state.routers], len(dealt)))
    assert [parts for *_, parts in seen] == [1, 3, 2]
    whole, gradient, bias, _ = seen[0]
    for metrics, other, moved, _ in seen[1:]:
        assert metrics == pytest.approx(whole, rel=1e-6) and metrics["moe/maxvio"] == whole["moe/maxvio"]
        tiny.close(other, gradient, 2e-6)
        assert all(torch.equal(a, b) for a, b in zip(moved, bias, strict=True))


def test_padding_is_no_load():
    state, counts = tiny.state(**LOOK), []
    state.routers[0].register_forward_hook(lambda router, args, out: counts.append((args, out[1])))
    metrics, _ = _look(state, _dealt(1000))
    ((_, mask), chosen), *_ = counts
    assert chosen.sum() == 2 * 6 * 16 and mask.shape == (16, 6)  # padding visits experts, in [seq, batch]
    loads = chosen.view(16, 6, -1)[~mask].sum(0).float()
    assert loads.sum() == 2 * sum(len(d) - 1 for d in DOCUMENTS)
    assert metrics["moe/maxvio"] == pytest.approx((loads.max() / loads.mean() - 1).item())


def test_loss_is_the_weighted_mean_of_cross_entropy():
    state, step = tiny.state(**LOOK), tiny.rows(0)
    step.loss_weights = torch.rand(step.labels.shape)
    step.loss_weights /= step.loss_weights.sum()
    with torch.no_grad():
        logits = state.module(step.tokens, torch.arange(tiny.SEQ).expand_as(step.tokens), None)
    expected = (F.cross_entropy(logits.flatten(0, 1), step.labels.flatten(), reduction="none")).dot(
        step.loss_weights.flatten()
    )
    assert _look(state, [step])[0]["train/loss"] == pytest.approx(expected.item(), rel=1e-6)


def _gradient_of(state, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """By autograd, around Megatron's buffers."""
    names, params = zip(*state.module.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, params, grads, strict=True)}


def test_mtp_gradient_is_lambda_times_mean_cross_entropy_of_the_second_next_token():
    state, step = tiny.state(**LOOK, model={"aux_loss_alpha": 0.0}), tiny.rows(0)
    _, got = _look(state, tiny.split(step, 2), mtp_lambda=0.3)

    seen: dict[str, torch.Tensor] = {}
    state.module.mtp.register_forward_hook(lambda m, args, out: seen.update(hidden=out.chunk(2)[1]))
    logits = state.module(step.tokens, torch.arange(tiny.SEQ).expand_as(step.tokens), None)
    mtp_logits = F.linear(seen["hidden"], state.module.output_layer.weight).transpose(0, 1)
    main = F.cross_entropy(logits.flatten(0, 1), step.labels.flatten())
    # V3 eq. 24: position i predicts t_{i+2}; the sum over T - 1 positions is divided by T.
    mtp = F.cross_entropy(mtp_logits[:, :-1].flatten(0, 1), step.labels[:, 1:].flatten(), reduction="sum")
    tiny.close(got, _gradient_of(state, main + 0.3 * mtp / step.labels.numel()), 1e-5)


def test_balance_loss_gradient_is_alpha_times_the_mean_over_rows():
    alpha = 0.5
    state, step = tiny.state(**LOOK, model={"aux_loss_alpha": alpha, "num_nextn_predict_layers": 0}), tiny.rows(0)
    _, got = _look(state, tiny.split(step, 4))

    seen: dict[str, torch.Tensor] = {}
    routers = {name: m for name, m in state.module.named_modules() if name.endswith("router")}
    for name, router in routers.items():
        router.register_forward_pre_hook(lambda m, args, n=name: seen.update({n: args[0]}))
    state.module.eval()  # without Megatron's own balance loss
    logits = state.module(step.tokens, torch.arange(tiny.SEQ).expand_as(step.tokens), None)
    loss = F.cross_entropy(logits.flatten(0, 1), step.labels.flatten())
    for name, router in routers.items():  # V3 eq. 17-20, K = 2 of N = 4 experts
        scores = torch.sigmoid(F.linear(seen[name].float(), router.weight)).transpose(0, 1)  # [batch, seq, expert]
        chosen = torch.zeros_like(scores).scatter(-1, (scores + router.expert_bias).topk(2).indices, 1.0)
        f = chosen.mean(1) * 4 / 2
        share = (scores / scores.sum(-1, keepdim=True)).mean(1)
        loss = loss + alpha * (f * share).sum(-1).mean()
    tiny.close(got, _gradient_of(state, loss), 1e-5)


def test_documents_packed_into_a_row_equal_documents_in_rows_of_their_own():
    state = tiny.state(**LOOK, model={"aux_loss_alpha": 0.0})
    apart = tiny.rows(0, batch=6, seq=8)
    packed = MicroBatch(
        tokens=apart.tokens.reshape(2, 24),
        labels=apart.labels.reshape(2, 24),
        loss_weights=apart.loss_weights.reshape(2, 24),
        document_ids=torch.arange(6).repeat_interleave(8).view(2, 24),
    )
    metrics, gradient = _look(state, [apart], mtp_lambda=0.3)
    packed_metrics, packed_gradient = _look(state, [packed], mtp_lambda=0.3)
    assert packed_metrics["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-6)
    tiny.close(packed_gradient, gradient, 1e-5)


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_steps_without_mtp_leave_its_weights_alone(optimizer):
    state, step = tiny.state(optimizer={"name": optimizer}), tiny.rows(0)
    train_step(state, [step], next_token_loss, Now(mtp_lambda=0.3))
    before = tiny.weights(state)
    train_step(state, [step], next_token_loss, Now(mtp_lambda=0.0))
    after = tiny.weights(state)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.startswith("mtp.") and not name.endswith("expert_bias")}


def test_a_router_without_balancing_bias_trains():
    state = tiny.state(model={"scoring_func": ScoringFunc.softmax})
    losses = [train_step(state, [tiny.rows(0)], next_token_loss, Now())["train/loss"] for _ in range(5)]
    assert not state.routers and losses[-1] < losses[0]


def test_mtp_may_come_after_steps_without_it():
    state, step = tiny.state(), tiny.rows(0)
    for mtp_lambda in (0.0, 0.3, 0.0, 0.3):
        train_step(state, [step], next_token_loss, Now(mtp_lambda=mtp_lambda))
    assert state.updates == 4


def test_expert_bias_moves_against_the_load_and_stands_at_speed_zero():
    state, step = tiny.state(**LOOK), tiny.rows(0)
    loads = {}
    for router in state.routers[:1]:
        router.register_forward_hook(lambda m, args, out: loads.update(here=out[1].sum(0)))
    _look(state, [step], bias_speed=0.0)
    assert all(not router.expert_bias.any() for router in state.routers)
    _look(state, [step], bias_speed=0.01, mtp_lambda=0.3)
    expected = 0.01 * torch.sign(loads["here"].float().mean() - loads["here"])
    torch.testing.assert_close(state.routers[0].expert_bias, expected)
    assert not any(router.local_tokens_per_expert.any() for router in state.routers)


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_training_lowers_the_loss(optimizer):
    state, step = tiny.state(optimizer={"name": optimizer, "lr": 1e-2}), tiny.rows(0)
    losses = [
        train_step(state, [step], next_token_loss, Now(mtp_lambda=0.1, bias_speed=1e-3))["train/loss"]
        for _ in range(20)
    ]
    assert losses[-1] < losses[0] / 2
    assert (state.updates, state.tokens_seen, state.step) == (20, 20 * step.labels.numel(), 0)


def test_metrics_of_the_loss_function_are_summed():
    def loss_fn(batch: MicroBatch, token_loss: torch.Tensor) -> LossOutput:
        count = torch.tensor(float(batch.labels.shape[0]))
        return LossOutput(loss=(token_loss * batch.loss_weights).sum(), metrics={"rl/rows": count})

    state = tiny.state()
    metrics = train_step(state, tiny.split(tiny.rows(0), 4), loss_fn, Now())
    assert metrics["rl/rows"] == 8


def _poisoned(batch: MicroBatch, token_loss: torch.Tensor) -> LossOutput:
    return LossOutput(loss=(token_loss * batch.loss_weights).sum() * float("nan"))


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_divergence_leaves_everything_as_it_was(optimizer):
    state, step = tiny.state(optimizer={"name": optimizer}), tiny.rows(0)
    train_step(state, [step], next_token_loss, Now(bias_speed=0.1))
    weights, moments = tiny.weights(state), _moments(state)
    state.step = 7
    with pytest.raises(TrainingDiverged, match="step 7.*no checkpoint"):
        train_step(state, [step], _poisoned, Now(bias_speed=0.1))
    tiny.close(tiny.weights(state), weights, 0)
    assert all(torch.equal(a, b) for a, b in zip(_moments(state), moments, strict=True))
    assert state.updates == 1
    train_step(state, [step], next_token_loss, Now(bias_speed=0.1))  # and it can go on


def _moments(state) -> list[torch.Tensor]:
    chain = state.optimizer.chained_optimizers
    return [t.clone() for o in chain for values in o.optimizer.state.values() for t in values.values()]


def test_token_logprobs_are_the_log_softmax_and_leave_no_trace():
    state, step = tiny.state(), tiny.rows(0)
    with torch.no_grad():
        logits = state.module(step.tokens, torch.arange(tiny.SEQ).expand_as(step.tokens), None)
    expected = logits.float().log_softmax(-1).gather(-1, step.labels[..., None])[..., 0]
    for model in (state.model, state.module):
        got = token_logprobs(model, tiny.split(step, 2))
        torch.testing.assert_close(torch.cat(got), expected, rtol=1e-5, atol=1e-5)
        assert not any(t.requires_grad for t in got)
    assert not any(router.local_tokens_per_expert.any() for router in state.routers)
