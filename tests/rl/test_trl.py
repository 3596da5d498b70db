"""Losses against TRL's own code on the same tensors.

GRPO, RLOO and DPO are methods of TRL's trainers, called here on a stub with the settings they read. PPO's loss and GAE
are statements inside PPOTrainer.train. All are cut out of TRL's source as they stand there, and run: importing a
trainer takes ten seconds.
"""

import ast
import importlib.util
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.gae import gae, token_rewards
from rl.objective_config import ObjectiveConfig, ObjectiveName
from rl.objectives.dpo import dpo_loss
from rl.objectives.grpo import grpo_loss
from rl.objectives.ppo import ppo_loss, value_loss
from rl.objectives.rloo import rloo_loss
from tests.rl.rows import rows

ROWS, PROMPT, RESPONSE, VOCAB = 4, 3, 7, 11
UTILS = ("selective_log_softmax", "entropy_from_logits", "nanmin", "nanmax")


def draw(*shape: int, seed: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source(file: str) -> ast.Module:
    folder = Path(importlib.util.find_spec("trl").origin).parent
    return ast.parse((folder / file).read_text())


def defined(code: list[ast.stmt], **names: Any) -> dict[str, Any]:
    """What TRL's code defines, given the names it reads."""
    space = {"torch": torch, "F": torch.nn.functional, **names}
    exec(compile(ast.Module(body=code, type_ignores=[]), "trl", "exec"), space)  # installed with this project
    return space


def method(file: str, **names: Any) -> Any:
    """_compute_loss of the trainer in that file."""
    (found,) = [node for node in ast.walk(source(file)) if getattr(node, "name", "") == "_compute_loss"]
    utils = [node for node in source("trainer/utils.py").body if getattr(node, "name", "") in UTILS]
    return defined([*utils, found], **names)["_compute_loss"]


def response_mask(lengths: list[int]) -> Tensor:
    return (torch.arange(RESPONSE) < torch.tensor(lengths)[:, None]).double()


def stub(**settings: Any) -> SimpleNamespace:
    """What TRL's methods read of `self`: one process, no extras."""
    accelerator = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, device=torch.device("cpu")
    )
    model = SimpleNamespace(training=False, is_gradient_checkpointing=False)
    kept = dict(accelerator=accelerator, model=model, aux_loss_enabled=False, _metrics=defaultdict(dict_of_lists))
    return SimpleNamespace(**(kept | settings))


def dict_of_lists() -> defaultdict:
    return defaultdict(list)


def policy_inputs(logprobs: Tensor, **more: Tensor) -> tuple[dict[str, Tensor], Any]:
    """The inputs of TRL's policy losses, and a method that gives these logprobs for them."""
    ids = torch.zeros(ROWS, PROMPT, dtype=torch.long)
    inputs = dict(
        prompt_ids=ids,
        prompt_mask=torch.ones_like(ids),
        completion_ids=torch.zeros(ROWS, RESPONSE, dtype=torch.long),
        **more,
    )
    return inputs, lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None)


LENGTHS = [7, 1, 4, 6]
ADVANTAGES = torch.tensor([1.2, -0.7, 0.4, -0.9], dtype=torch.float64)


def same(loss: Tensor, wanted: Tensor, *leaves: Tensor) -> None:
    """Equal values, and equal gradients."""
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-14)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_grpo(loss_type: str, kl_coef: float) -> None:
    """grpo averages over answers (our per_answer), dapo over tokens (our token_mean)."""
    logprobs = draw(ROWS, RESPONSE, seed=0).requires_grad_()
    old, ref, mask = draw(ROWS, RESPONSE, seed=1), draw(ROWS, RESPONSE, seed=2), response_mask(LENGTHS)
    more = dict(completion_mask=mask, advantages=ADVANTAGES, old_per_token_logps=old, ref_per_token_logps=ref)
    inputs, given = policy_inputs(logprobs, **more, num_items_in_batch=mask.sum())
    trainer = stub(
        _get_per_token_logps_and_entropies=given,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=kl_coef,
        epsilon_low=0.2,
        epsilon_high=0.28,
        loss_type=loss_type,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    trainer.accelerator.num_processes = 1
    wanted = method("trainer/grpo_trainer.py")(trainer, None, inputs)

    weights = mask / (ROWS * mask.sum(1, keepdim=True)) if loss_type == "grpo" else mask / mask.sum()
    batch = rows(weights, advantages=ADVANTAGES[:, None] * mask, old_logprobs=old, ref_logprobs=ref)
    out = grpo_loss(batch, logprobs, ObjectiveConfig(clip_low=0.2, clip_high=0.28, kl_coef=kl_coef))
    same(out.loss, wanted, logprobs)


def test_rloo() -> None:
    logprobs = draw(ROWS, RESPONSE, seed=0).requires_grad_()
    old, mask = draw(ROWS, RESPONSE, seed=1), response_mask(LENGTHS)
    more = dict(completion_mask=mask, advantages=ADVANTAGES, old_logps=(old * mask).sum(1))
    inputs, given = policy_inputs(logprobs, **more)
    trainer = stub(_get_per_token_logps_and_entropies=given, epsilon_low=0.2, epsilon_high=0.28)
    wanted = method("trainer/rloo_trainer.py")(trainer, None, inputs)

    batch = rows(mask / (ROWS * mask.sum(1, keepdim=True)), advantages=ADVANTAGES[:, None] * mask, old_logprobs=old)
    cfg = ObjectiveConfig(name=ObjectiveName.rloo, clip_low=0.2, clip_high=0.28)
    same(rloo_loss(batch, logprobs, cfg).loss, wanted, logprobs)


@pytest.mark.parametrize("nll_coef", [0.0, 0.5])
def test_dpo(nll_coef: float) -> None:
    seq = PROMPT + RESPONSE
    logits, ref_logits = draw(ROWS, seq, VOCAB, seed=0, scale=1.0).requires_grad_(), draw(ROWS, seq, VOCAB, seed=1)
    ids = torch.randint(0, VOCAB, (ROWS, seq), generator=torch.Generator().manual_seed(2))
    # TRL's NLL is over all tokens of the chosen answers, ours over each answer first: the same at equal lengths.
    lengths = [7, 1, 4, 6] if nll_coef == 0 else [5, 5, 4, 6]
    mask = torch.cat([torch.zeros(ROWS, PROMPT), response_mask(lengths)], dim=1).long()
    trainer = stub(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid", "sft"],
        loss_weights=[1.0, nll_coef],
        beta=0.3,
        label_smoothing=0.0,
        use_weighting=False,
        _total_train_tokens=0,
    )

    def of_labels(values: Tensor) -> Tensor:
        return values[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    reference = (of_labels(ref_logits) * mask[:, 1:]).sum(1)
    inputs = dict(input_ids=ids, completion_mask=mask, attention_mask=torch.ones_like(ids))
    inputs |= dict(ref_chosen_logps=reference[:2], ref_rejected_logps=reference[2:])
    policy = lambda **inputs: SimpleNamespace(logits=logits)  # noqa: E731
    wanted = method("trainer/dpo_trainer.py")(trainer, policy, inputs, return_outputs=False)

    pairs = [0, 2, 1, 3]  # TRL's batch is all chosen, then all rejected; ours is pair by pair
    weights = mask[:, 1:].double() / (ROWS * mask.sum(1, keepdim=True))
    batch = rows(weights[pairs], ref_logprobs=of_labels(ref_logits)[pairs])
    same(dpo_loss(batch, of_labels(logits)[pairs], beta=0.3, nll_coef=nll_coef).loss, wanted, logits)


def run(first: str, last: str, **names: Any) -> SimpleNamespace:
    """Run the statements of PPOTrainer.train from the one that sets `first` to the last that sets `last`, in a row.

    names: what they read; -> what they set.
    """
    tree = source("experimental/ppo/ppo_trainer.py")
    helpers = [node for node in tree.body if getattr(node, "name", "").startswith("masked_")]
    blocks = [
        block
        for node in ast.walk(tree)
        for block in (getattr(node, "body", None),)
        if isinstance(block, list) and any(sets(statement, first) for statement in block)
    ]
    assert len(blocks) == 1, f"TRL's PPO sets {first} in {len(blocks)} places"
    at = [i for i, statement in enumerate(blocks[0]) if sets(statement, first) or sets(statement, last)]
    return SimpleNamespace(**defined(helpers + blocks[0][at[0] : at[-1] + 1], **names))


def sets(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def test_ppo_policy_and_value_loss() -> None:
    logprobs, values = draw(ROWS, RESPONSE, seed=0).requires_grad_(), draw(ROWS, RESPONSE, seed=1).requires_grad_()
    old, old_values, returns = (draw(ROWS, RESPONSE, seed=seed) for seed in (2, 3, 4))
    advantages, mask = draw(ROWS, RESPONSE, seed=5, scale=1.0), response_mask(LENGTHS)
    trl = run(
        "vpredclipped",
        "pg_loss",
        args=SimpleNamespace(cliprange=0.2, cliprange_value=0.15),
        vpred=values,
        mb_values=old_values,
        mb_return=returns,
        mb_advantage=advantages,
        new_logprobs=logprobs,
        mb_logprobs=old,
        padding_mask=mask == 0,
        padding_mask_p1=mask == 0,
        micro_batch_inds=slice(None),
    )
    batch = rows(mask / mask.sum(), advantages=advantages, old_logprobs=old, old_values=old_values, returns=returns)
    policy = ppo_loss(batch, logprobs, ObjectiveConfig(name=ObjectiveName.ppo, clip_low=0.2, clip_high=0.2))
    value = value_loss(batch, values, clip_value=0.15)
    same(policy.loss, trl.pg_loss, logprobs)
    same(value.loss, trl.vf_loss, values)
    assert value.metrics["rl/value_clip_frac"].item() == pytest.approx(trl.vf_clipfrac.item())


def test_ppo_rewards_and_gae() -> None:
    """On answers without padding: behind a shorter one TRL takes the value of the end token's successor for a state."""
    logprobs, ref, values = (draw(ROWS, RESPONSE, seed=seed) for seed in (0, 1, 2))
    scores, nowhere = draw(ROWS, seed=3, scale=1.0), torch.zeros(ROWS, RESPONSE, dtype=torch.bool)
    trl = run(
        "logr",
        "returns",
        args=SimpleNamespace(kl_estimator="k1", kl_coef=0.05, whiten_rewards=False, gamma=0.99, lam=0.9),
        ref_logprobs=ref,
        logprobs=logprobs,
        scores=scores,
        values=values,
        responses=torch.zeros(ROWS, RESPONSE),
        sequence_lengths=torch.full((ROWS,), RESPONSE - 1),
        sequence_lengths_p1=torch.full((ROWS,), RESPONSE),
        padding_mask_p1=nowhere,
    )
    pad = lambda x: torch.cat([torch.full((ROWS, PROMPT), 5.0), x, torch.full((ROWS, 2), 5.0)], dim=1)  # noqa: E731
    mask = pad(torch.zeros(ROWS, RESPONSE)) == 0
    rewards = token_rewards(scores, pad(logprobs), pad(ref), mask, 0.05)
    advantages, returns = gae(rewards, pad(values), mask, 0.99, 0.9)
    response = slice(PROMPT, PROMPT + RESPONSE)
    assert torch.allclose(rewards[:, response], trl.rewards)
    assert torch.allclose(advantages[:, response], trl.advantages)
    assert torch.allclose(returns[:, response], trl.returns)
