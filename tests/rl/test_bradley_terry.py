"""The pairwise loss by hand, its gradient by differences, against TRL's where that is installed; batches of pairs."""

import ast
import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rl.objectives.bradley_terry import bradley_terry_loss
from rl.reward_model_data import PairRows, PairStream, collate_rows, pair_batches
from training.step import MicroBatch

PAIRS = [
    PairRows([1, 2, 3], [1, 2]),
    PairRows([4], [5, 6, 7, 8]),
    PairRows([9, 9], [3, 3]),
    PairRows([2, 4, 6], [7, 7]),
]


def batch_of(pairs: list[PairRows]) -> MicroBatch:
    (batch,) = pair_batches(pairs, rank=0, world=1, max_tokens=10_000, pad_id=0)
    return batch


def at_ends(batch: MicroBatch, values: list[float]) -> torch.Tensor:
    """Scores that are these where rows end, and something else everywhere else."""
    scores = torch.full(batch.tokens.shape, 77.0, dtype=torch.float64)
    scores[batch.loss_weights > 0] = torch.tensor(values, dtype=torch.float64)
    return scores


def test_rows_end_where_their_weight_is():
    batch = collate_rows([[1, 2, 3], [4]], [0.5, 0.5], pad_id=0)
    assert batch.tokens.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.loss_weights.tolist() == [[0, 0, 0.5], [0.5, 0, 0]]
    assert batch.padding.tolist() == [[False] * 3, [False, True, True]]


def test_loss_by_hand():
    batch = collate_rows([[1, 2], [3], [4], [5, 6]], [0.25] * 4, pad_id=0)
    out = bradley_terry_loss(batch, at_ends(batch, [1.0, 0.0, -1.0, 2.0]))
    # margins 1 and -3: log(1 + e^-1) = 0.313262, log(1 + e^3) = 3.048587
    assert out.loss.item() == pytest.approx((0.313262 + 3.048587) / 2, abs=1e-6)
    assert out.metrics["reward_model/accuracy"].item() == 0.5
    assert out.metrics["reward_model/margin"].item() == pytest.approx(-1.0)


def test_equal_scores_cost_log_two_and_are_half_right():
    batch = batch_of(PAIRS)
    out = bradley_terry_loss(batch, torch.zeros(batch.tokens.shape))
    assert out.loss.item() == pytest.approx(math.log(2)) and out.metrics["reward_model/accuracy"].item() == 0.5


def test_a_large_margin_is_finite_and_padding_rows_cost_nothing():
    batch = collate_rows([[1], [2]], [0.5, 0.5], pad_id=0)
    assert bradley_terry_loss(batch, at_ends(batch, [-1e4, 1e4])).loss.item() == pytest.approx(2e4)
    for empty in (collate_rows([], [], pad_id=0), batch.blank()):
        scores = torch.randn(empty.tokens.shape, requires_grad=True)
        out = bradley_terry_loss(empty, scores)
        out.loss.backward()
        assert out.loss.item() == 0 and not scores.grad.any()


def test_gradient_by_finite_differences():
    batch = batch_of(PAIRS)
    scores = torch.randn(batch.tokens.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores.requires_grad_(True)
    batch.loss_weights = batch.loss_weights.double()
    assert torch.autograd.gradcheck(lambda s: bradley_terry_loss(batch, s).loss, (scores,))


@pytest.mark.parametrize("world, max_tokens", [(1, 10_000), (1, 8), (2, 8), (3, 16), (5, 10_000)])
def test_micro_batches_and_ranks_do_not_change_the_loss(world, max_tokens):
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(10, generator=generator, dtype=torch.float64)  # the score of a row that ends with token i

    def loss(batches: list[MicroBatch]) -> float:
        return sum(bradley_terry_loss(b, value[b.tokens]).loss.item() for b in batches)

    shares = [pair_batches(PAIRS, rank=r, world=world, max_tokens=max_tokens, pad_id=0) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    margins = [value[p.chosen[-1]] - value[p.rejected[-1]] for p in PAIRS]
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / len(PAIRS)
    assert sum(loss(share) for share in shares) == pytest.approx(expected)
    assert sum(b.loss_weights.sum().item() for share in shares for b in share) == pytest.approx(1)


def trl_compute_loss() -> Callable[..., torch.Tensor]:
    """RewardTrainer.compute_loss out of TRL's file: to import the class takes half a minute."""
    spec = importlib.util.find_spec("trl")
    if spec is None:
        pytest.skip("needs TRL (requirements/dev.txt)")
    tree = ast.parse((Path(spec.origin).parent / "trainer" / "reward_trainer.py").read_text())
    (method,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "compute_loss"]
    names: dict = {"torch": torch, "nn": torch.nn}
    exec(compile(ast.Module([method], []), "reward_trainer.py", "exec"), names)
    return names["compute_loss"]


def test_loss_accuracy_and_margin_are_trls():
    batch = batch_of(PAIRS)
    scores = torch.randn(8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def model(**inputs):  # TRL's batches hold all chosen answers first
        return SimpleNamespace(logits=torch.cat([scores[::2], scores[1::2]])[:, None])

    found = {"eval": defaultdict(list)}
    trainer = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=None),
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(gather_for_metrics=lambda t: t, gather=lambda t: t),
        _metrics=found,
        _total_train_tokens=0,
    )
    loss = trl_compute_loss()(trainer, model, {})
    own = bradley_terry_loss(batch, at_ends(batch, scores.tolist()))
    assert own.loss.item() == pytest.approx(loss.item())
    for key in ("accuracy", "margin"):
        assert own.metrics[f"reward_model/{key}"].item() == pytest.approx(found["eval"][key][0])


def test_each_epoch_has_every_pair_once_and_a_resume_goes_on_in_the_same_order():
    stream = PairStream(PAIRS, seed=3)
    seen = [stream.next(3) for _ in range(2 * stream.steps(3))]
    assert [len(part) for part in seen] == [3, 1, 3, 1]
    for epoch in (seen[:2], seen[2:]):
        assert sorted(id(pair) for part in epoch for pair in part) == sorted(map(id, PAIRS))
    other = PairStream(PAIRS, seed=3)
    other.next(3), other.next(3)
    again = PairStream(PAIRS, seed=3)
    again.load_state_dict(other.state_dict())
    assert again.next(3) == seen[2]
