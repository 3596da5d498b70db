"""Every fault of the laboratory is really injected: what the engine tells is what the fault says, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.mismatch import report
from tests import e4m3, gloo

RELEASED = Path(__file__).parents[2] / "experiments" / "base"


def look() -> dict[str, Any]:
    """Everything that the tests need of a network, in one process. Answers are (tokens, told logprobs, logits)."""
    from experiments.mismatch.faults import FAULTS, Flipped, in_fp8
    from modeling import hf
    from modeling.decode_weights import Experts
    from modeling.sampling import SamplingConfig
    from modeling.tokenizer import Tokenizer
    from rl.rollout.local import LocalEngine
    from rl.tasks.base import TaskConfig
    from rl.tasks.mix import build_task
    from training import parallel
    from training.config import OptimizerConfig, ParallelConfig
    from training.state import build_state

    parallel.init(ParallelConfig(), 0)
    cfg, tokenizer = hf.config_from(RELEASED), Tokenizer.load(RELEASED)
    state = build_state(cfg, OptimizerConfig(), ParallelConfig(), stage="test", init_from=RELEASED)
    task, sampling = build_task(TaskConfig(), tokenizer), SamplingConfig(max_response_tokens=30)
    asked = [task.train_question(i) for i in range(3)]
    decoder = LocalEngine(state.module, cfg, tokenizer, sampling, seed=0).generator.decoder

    def answers(engine: Any) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
        """With the sound network's logits before each token, [tokens, vocab]."""
        out = []
        for question, group in zip(asked, engine.generate(asked, 2, step=0), strict=True):
            prompt = tokenizer.encode(question.prompt)
            for c in group:
                assert c.text == tokenizer.decode(c.tokens) and len(c.entropies) == len(c.tokens)
                logits, _ = decoder.prefill([prompt + c.tokens[:i] for i in range(len(c.tokens))])
                out.append((c.tokens, np.array(c.sampler_logprobs), logits.numpy()))
        return out

    def build(name: str) -> Any:
        return FAULTS[name].build(state, tokenizer, sampling, 0)

    engines = {name: build(name) for name in FAULTS}
    found: dict[str, Any] = {"answers": {name: answers(engine) for name, engine in engines.items()}}
    nucleus = LocalEngine(state.module, cfg, tokenizer, replace(sampling, top_p=0.9), seed=0)
    found["answers"]["sound nucleus"] = answers(nucleus)

    true = {name: p.detach().clone() for name, p in state.module.named_parameters()}
    for name in ("fp8", "bf16"):
        inside = getattr(engines[name], "inner", engines[name])
        held = dict(inside.whole.module.named_parameters())
        chosen = ("decoder.layers.1.mlp.shared_experts.linear_fc1.weight", "decoder.layers.1.mlp.router.weight")
        found[name] = {each: (true[each].numpy(), held[each].detach().float().numpy()) for each in chosen}
        found[f"{name} types"] = {str(p.dtype) for p in held.values()}
    found["in_fp8"] = [name for name, p in true.items() if in_fp8(name, p)]

    experts = next(mlp for _, mlp in engines["router_flips"].inner.generator.decoder.layers if isinstance(mlp, Flipped))
    x = torch.randn(4000, cfg.hidden_size, generator=torch.Generator().manual_seed(1))
    scores = torch.sigmoid(x @ experts.router.T)
    found["flips"] = [t.numpy() for t in (*Experts.route(experts, x), *experts.route(x), scores + experts.bias, scores)]

    # Weights 0, 1, 2, ...: every step adds one to a norm.
    norm = state.module.decoder.final_layernorm.weight
    first = norm.detach().clone()
    stale = {steps: build(f"stale_{steps}") for steps in (1, 4, 16)}
    found["stale"] = {steps: [] for steps in stale}
    for step in range(1, 20):
        with torch.no_grad():
            norm.copy_(first + step)
        for steps, engine in stale.items():
            engine.load_weights(state.module, version=step)
            own = engine.inner.whole.module.decoder.final_layernorm.weight - first
            used = engine.inner.generator.decoder.final_norm[0] - first
            found["stale"][steps].append((engine.version, round(float(own.mean())), round(float(used.mean()))))
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return gloo.run(look, ranks=1)[0]


def logprobs(logits: np.ndarray, tokens: list[int], temperature: float = 1.0) -> np.ndarray:
    x = logits.astype(np.float64) / temperature
    x -= x.max(1, keepdims=True)
    return (x - np.log(np.exp(x).sum(1, keepdims=True)))[np.arange(len(tokens)), tokens]


def differences(answers: list, temperature: float = 1.0) -> np.ndarray:
    return np.concatenate([told - logprobs(logits, tokens, temperature) for tokens, told, logits in answers])


def texts(answers: list) -> list[list[int]]:
    return [tokens for tokens, *_ in answers]


def test_the_baseline_has_no_mismatch(found):
    assert np.abs(differences(found["answers"]["none"])).max() < 2e-5


def test_temperature_is_in_the_draw_and_in_the_logprobs(found):
    answers = found["answers"]["temperature"]
    assert np.abs(differences(answers, 0.7)).max() < 3e-5 and np.abs(differences(answers)).max() > 0.05


def test_the_hidden_temperature_is_in_the_draw_alone(found):
    answers = found["answers"]["temperature_raw"]
    assert texts(answers) == texts(found["answers"]["temperature"]) != texts(found["answers"]["none"])
    assert np.abs(differences(answers)).max() < 2e-5


def test_top_p_draws_from_the_nucleus_and_tells_logprobs_of_all(found):
    answers, sound = found["answers"]["top_p"], found["answers"]["sound nucleus"]
    assert texts(answers) == texts(sound)
    assert np.abs(differences(answers)).max() < 2e-5
    for (_, told, logits), (_, renormalised, _) in zip(answers, sound, strict=True):
        p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        p = -np.sort(-p / p.sum(1, keepdims=True), axis=1)
        kept = np.where(p.cumsum(1) - p < 0.9, p, 0.0)
        assert (np.exp(told) >= kept.min(1, initial=1, where=kept > 0) * (1 - 1e-4)).all()
        assert renormalised - told == pytest.approx(-np.log(kept.sum(1)), abs=2e-5)
    assert max((b[1] - a[1]).max() for a, b in zip(answers, sound, strict=True)) > 0.01


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_stale_weights_are_so_many_steps_old_and_said_to_be_new(found, steps):
    wanted = [(step, max(0, step - steps), max(0, step - steps)) for step in range(1, 20)]
    assert found["stale"][steps] == wanted


def test_fp8_holds_products_on_the_grid_and_the_router_as_it_is(found):
    (weight, held), (router, kept) = found["fp8"].values()
    assert np.allclose(held, e4m3.through_fp8(weight, 128, 128), rtol=1e-6, atol=1e-9)
    assert (held != weight).mean() > 0.9 and (kept == router).all()
    assert any("experts.weight1" in name for name in found["in_fp8"])
    assert not any(part in name for name in found["in_fp8"] for part in ("embedding", "output_layer", "norm", "router"))
    assert 1e-3 < np.abs(differences(found["answers"]["fp8"])).max() < 1


def test_fp8_cuts_what_is_multiplied_but_for_the_head():
    from torch.nn import functional as F

    from experiments.mismatch.faults import _Tiles

    x, weight, head = (torch.randn(*shape) for shape in ((3, 128), (5, 128), (7, 128)))
    with _Tiles([head]):
        cut, spared = F.linear(x, weight), F.linear(x, head)
    assert np.allclose(cut, e4m3.through_fp8(x.numpy(), 1, 128) @ weight.numpy().T, atol=1e-4)
    assert torch.equal(spared, x @ head.T) and not torch.allclose(cut, x @ weight.T, atol=1e-3)


def test_bf16_rounds_every_weight(found):
    (weight, held), _ = found["bf16"].values()
    assert (torch.from_numpy(weight).bfloat16().float().numpy() == held).all() and (held != weight).any()
    assert found["bf16 types"] >= {"torch.bfloat16"}
    assert 1e-3 < np.abs(differences(found["answers"]["bf16"])).max() < 1


def test_a_flipped_router_takes_its_next_best_expert_in_the_share_that_is_said(found):
    gates, chosen, faulty_gates, faulty, ranked, scores = found["flips"]
    order = np.argsort(-ranked, axis=1)
    same = (np.sort(chosen) == np.sort(faulty)).all(1)
    assert 0.035 < 1 - same.mean() < 0.065
    assert (np.sort(faulty[~same]) == np.sort(order[~same][:, [0, 2]])).all()
    wanted = np.take_along_axis(scores, faulty, 1)
    assert np.allclose(faulty_gates, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    assert np.allclose(np.sort(gates[same]), np.sort(faulty_gates[same]))
    assert np.abs(differences(found["answers"]["router_flips"])).max() > 1e-3


def test_a_dropped_token_is_missing_from_tokens_and_logprobs(found):
    for (whole, told, _), (tokens, left, _) in zip(
        found["answers"]["none"], found["answers"]["dropped_token"], strict=True
    ):
        gaps = [at for at in range(1, len(whole) - 1) if whole[:at] + whole[at + 1 :] == tokens]
        assert len(tokens) == len(whole) - 1 and any(np.array_equal(np.delete(told, at), left) for at in gaps)
    assert np.abs(differences(found["answers"]["dropped_token"])).max() > 1


def test_the_committed_result_follows_from_the_committed_curves():
    path = RELEASED.parent / "results" / "mismatch" / "mismatch.json"
    result = json.loads(path.read_text())
    for name, runs in result["curves"].items():
        for alarm in report.ALARMS:
            if alarm.metric in runs[0]:
                steps = [[{} if v is None else {alarm.metric: v} for v in run[alarm.metric]] for run in runs]
                assert [report.first(alarm, s) for s in steps] == result["arms"][name]["alarms"][alarm.name], name
    assert result["levels"] == {a.name: {"metric": a.metric, "level": a.level} for a in report.ALARMS}
    assert not any(step for steps in result["arms"]["none"]["alarms"].values() for step in steps)
