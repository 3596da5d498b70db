"""Two data-parallel gloo ranks equal one, and they agree when one of them diverges. Other layouts: test_layouts.py."""

import errno
import os

import pytest
import torch

from infra.errors import R1Error, TrainingDiverged
from tests import gloo
from tests.training import tiny
from training import parallel
from training.config import OptimizerName, ParallelConfig
from training.losses import LossOutput, next_token_loss
from training.schedules import Now
from training.step import token_logprobs, train_step

STEPS = 3


def _train(state, parts: int) -> dict:
    """STEPS steps on this rank's share of rows; -> losses, norms, weights, bias."""
    metrics = []
    for step in range(STEPS):
        now = Now(mtp_lambda=0.3 if step != 1 else 0.0, bias_speed=0.01)
        metrics.append(train_step(state, tiny.share(tiny.rows(step), parts), next_token_loss, now))
    logprobs = token_logprobs(state.model, tiny.share(tiny.rows(9)))[0]
    return {"metrics": metrics, "weights": tiny.weights(state), "logprobs": logprobs, "tokens": state.tokens_seen}


def _data_parallel(optimizer: dict, layout: dict, parts: int) -> dict:
    return _train(tiny.state(optimizer=optimizer, layout=layout, model={"aux_loss_alpha": 0.1}), parts)


def _assert_equal(one: dict, two: dict, tolerance: float) -> None:
    assert one["tokens"] == two["tokens"]
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert b == pytest.approx(a, rel=tolerance)
    for name, weight in one["weights"].items():
        if name in two["weights"] and two["weights"][name].shape == weight.shape:
            torch.testing.assert_close(two["weights"][name], weight, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("optimizer", "layout", "tolerance"),
    [
        ({"name": OptimizerName.adamw}, {}, 2e-5),
        ({"name": OptimizerName.adamw}, {"zero1": True}, 2e-5),
        ({"name": OptimizerName.muon}, {}, 1e-3),  # BF16 inside, so a last bit of the gradient can flip one there
    ],
)
def test_two_data_parallel_ranks_equal_one(optimizer, layout, tolerance):
    one = _data_parallel(optimizer, {}, parts=4)
    two = gloo.run(_data_parallel, optimizer, layout, 2)
    _assert_equal(one, two[0], tolerance)
    assert all(torch.equal(two[0]["weights"][n], two[1]["weights"][n]) for n in two[0]["weights"])
    both = torch.stack([two[0]["logprobs"], two[1]["logprobs"]], 1).flatten(0, 1)  # rows were dealt in turn
    same = torch.isclose(both, one["logprobs"], rtol=1e-3, atol=10 * tolerance)
    # Under Muon's rounding a token between two experts may go to the other; so few tell of nothing else.
    assert same.float().mean() >= (1.0 if optimizer["name"] is OptimizerName.adamw else 0.98)


def _poisoned_on_one(poisoned: int) -> tuple[str, bool]:
    state = tiny.state()
    train_step(state, tiny.share(tiny.rows(0)), next_token_loss, Now(bias_speed=0.1))
    before = tiny.weights(state)

    def loss_fn(batch, token_loss) -> LossOutput:
        bad = float("nan") if parallel.rank() == poisoned else 1.0
        return LossOutput(loss=(token_loss * batch.loss_weights).sum() * bad)

    try:
        train_step(state, tiny.share(tiny.rows(1)), loss_fn, Now(bias_speed=0.1))
    except TrainingDiverged as error:
        after = tiny.weights(state)
        return str(error), all(torch.equal(before[n], after[n]) for n in before)
    return "went on", False


def test_a_nan_on_one_rank_stops_all_and_moves_nothing():
    for message, unchanged in gloo.run(_poisoned_on_one, 1):
        assert "training diverged" in message and unchanged


def _collectives() -> list:
    assert parallel.gather_objects(parallel.rank()) == [0, 1]
    assert parallel.broadcast_object({"from": parallel.rank()}) == {"from": 0}
    return [parallel.data_rank(), parallel.data_size(), parallel.any_rank(parallel.rank() == 1)]


def _disk_is_full() -> str:
    parallel.init(ParallelConfig(), 0)

    def write() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model/config.json")

    try:
        parallel.on_main(write)
    except R1Error as error:
        return str(error)
    return "went on"


def test_what_rank_0_cannot_write_stops_every_rank_with_one_message():
    one, two = gloo.run(_disk_is_full)
    assert one == two and one.startswith("model/config.json: No space left")


def _after_init() -> list:
    parallel.init(ParallelConfig(), 0)
    return _collectives()


def test_collectives_answer_alike_on_every_rank():
    assert gloo.run(_after_init) == [[0, 2, True], [1, 2, True]]
