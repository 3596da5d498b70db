"""FP8 inside the network: which modules it reaches, experts and ranks against each other, and that it trains."""

import math

import pytest
import torch

from infra.errors import TrainingDiverged
from modeling import build, fp8
from modeling.config import DType, Experts, Fp8, ModelConfig
from modeling.fp8 import PRODUCTS, emulated_product
from modeling.fp8_modules import Fp8Experts, _Experts, use_fp8
from tests import gloo
from tests.modeling.test_experts import _stacked
from tests.training import tiny
from training import parallel
from training.config import ParallelConfig
from training.losses import next_token_loss
from training.schedules import Now
from training.step import token_logprobs, train_step

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear  # isort: skip

LAYERS = ("decoder.layers.0.", "decoder.layers.1.", "mtp.layers.0.mtp_model_layer.")
ATTENTION = ("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj")
IN_FP8 = {f"{layer}self_attention.{name}" for layer in LAYERS for name in ATTENTION}
IN_FP8 |= {f"decoder.layers.0.mlp.{name}" for name in ("linear_fc1", "linear_fc2")}
IN_FP8 |= {f"{layer}mlp.shared_experts.{name}" for layer in LAYERS[1:] for name in ("linear_fc1", "linear_fc2")}


def _pair(**model):
    return tiny.state(3, model=model | {"fp8": Fp8.emulated}), tiny.state(3, model=model)


def test_linear_layers_and_experts_are_reached_and_nothing_else_is(monkeypatch):
    """Products of FP8 are made 1.5 times as large here, so that they show."""
    monkeypatch.setitem(PRODUCTS, Fp8.emulated, lambda a, b, dtype: emulated_product(a, b, dtype) * 1.5)
    ours, theirs = (dict(state.module.eval().named_modules()) for state in _pair())
    x = torch.randn(4, 2, 64)
    ratios = {
        name: (module(x[..., : module.weight.shape[1]])[0] / theirs[name](x[..., : module.weight.shape[1]])[0]).median()
        for name, module in ours.items()
        if isinstance(module, ColumnParallelLinear | RowParallelLinear)
    }
    assert {name for name, ratio in ratios.items() if ratio > 1.4} == IN_FP8
    assert {name for name, ratio in ratios.items() if ratio == 1} == {"output_layer", "mtp.layers.0.eh_proj"}
    assert len(ratios) == len(IN_FP8) + 2
    for layer in LAYERS[1:]:
        assert isinstance(ours[f"{layer}mlp.experts"], Fp8Experts)
        assert torch.equal(*(net[f"{layer}mlp.router"](x[..., :32])[0] for net in (ours, theirs)))
        assert torch.equal(*(net[f"{layer}input_layernorm"](x[..., :32])[0] for net in (ours, theirs)))
    q, k, v = torch.randn(3, 4, 2, 2, 16).unbind()
    attend = [net["decoder.layers.1.self_attention.core_attention"] for net in (ours, theirs)]
    assert torch.equal(*(core(q, k, v[..., :8], None) for core in attend))
    ids = torch.tensor([[1, 2]])
    assert torch.equal(*(net["embedding.word_embeddings"](ids) for net in (ours, theirs)))


def test_experts_equal_megatrons_sequential_ones_with_fp8_linears():
    ours = tiny.state(3, model=dict(fp8=Fp8.emulated, routed_scaling_factor=2.5))
    theirs = tiny.state(3, model=dict(fp8=Fp8.emulated, routed_scaling_factor=2.5, experts=Experts.sequential))
    for state in (ours, theirs):
        for router in state.routers:
            router.expert_bias[0] = -100.0  # one expert without tokens
    now = Now(lr_scale=0.0, mtp_lambda=0.3)
    losses = [train_step(s, [tiny.rows(1)], next_token_loss, now)["train/loss"] for s in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    gradients = tiny.gradients(ours)
    assert not gradients["decoder.layers.1.mlp.experts.weight1"][0].any()
    # A sum that is rounded the other way can move a number to the next of FP8's: sums are compared, not single numbers.
    for name, expected in _stacked(theirs, "grad").items():
        assert (gradients[name] - expected).norm() <= 1e-3 * expected.norm() + 1e-9, name


def test_experts_without_any_token():
    x, probs = torch.zeros(0, 32, requires_grad=True), torch.zeros(0, requires_grad=True)
    w1, w2 = (torch.randn(4, *shape).requires_grad_() for shape in ((32, 32), (32, 16)))
    out = _Experts.apply(x, w1, w2, probs, [0] * 4, emulated_product)
    out.sum().backward()
    assert out.shape == (0, 32) and x.grad.shape == (0, 32) and not w1.grad.any() and not w2.grad.any()


def test_a_short_training_in_fp8_follows_the_one_in_fp32_and_is_not_it():
    last = []
    optimizer = dict(lr=1e-2)
    for products in (Fp8.emulated, Fp8.none):
        state, rows = tiny.state(3, model=dict(fp8=products), optimizer=optimizer), tiny.rows(0)
        last.append([train_step(state, [rows], next_token_loss, Now(mtp_lambda=0.3))["train/loss"] for _ in range(8)])
    ours, theirs = last
    assert ours[0] != theirs[0] and ours[0] == pytest.approx(theirs[0], rel=5e-3)
    assert ours[-1] < 0.6 * ours[0] and ours[-1] == pytest.approx(theirs[-1], rel=0.05), (ours, theirs)


def test_bf16_network_trains_in_fp8():
    state = tiny.state(0, model=dict(fp8=Fp8.emulated, dtype=DType.bf16))
    losses = [train_step(state, [tiny.rows(0)], next_token_loss, Now(mtp_lambda=0.3))["train/loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


def test_logprobs_do_not_need_gradients():
    state, _ = _pair()
    first, again = (token_logprobs(state.model, [tiny.rows(1)])[0] for _ in range(2))
    assert torch.equal(first, again) and first.isfinite().all()


def test_an_infinity_is_not_swallowed():
    state, _ = _pair()
    state.module.decoder.layers[0].mlp.linear_fc2.weight.data[3, 3] = math.inf
    with pytest.raises(TrainingDiverged):
        train_step(state, [tiny.rows(0)], next_token_loss, Now())


def _tensor_parallel(ranks: int) -> list[list[torch.Tensor]]:
    """Two linear layers, split over the ranks, without and with sequence parallelism.

    -> for each: output, gradient of x and of this rank's weights.
    """
    parallel.init(ParallelConfig(tensor=ranks), 0)
    return [_two_layers(ranks, sequence) for sequence in (False, True)]


def _two_layers(ranks: int, sequence: bool) -> list[torch.Tensor]:
    from megatron.core import parallel_state

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(*s, generator=generator) * 0.1 for s in ((512, 256), (256, 512))]
    x, grad = (torch.randn(256, 1, 256, generator=generator) for _ in range(2))
    split = sequence and ranks > 1
    config = build.megatron_config(tiny.model_config(), tp=ranks, sequence_parallel=split)
    common = dict(config=config, init_method=torch.nn.init.zeros_, bias=False, skip_bias_add=False)
    first = ColumnParallelLinear(256, 512, gather_output=False, **common)
    second = RowParallelLinear(512, 256, input_is_parallel=True, **common)
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([first, second])})
    use_fp8(torch.nn.ModuleDict({"decoder": layers}), emulated_product)
    rank = parallel_state.get_tensor_model_parallel_rank()
    first.weight.data = weights[0].chunk(ranks, 0)[rank].clone()
    second.weight.data = weights[1].chunk(ranks, 1)[rank].clone()
    x, grad = (t.chunk(ranks, 0)[rank] if split else t for t in (x, grad))
    x = x.clone().requires_grad_()
    out, _ = second(torch.nn.functional.silu(first(x)[0]))
    out.backward(grad)
    return [t.detach() for t in (out, x.grad, first.weight.grad, second.weight.grad)]


def test_two_tensor_ranks_equal_one():
    (one,) = gloo.run(_tensor_parallel, 1, ranks=1)
    both = gloo.run(_tensor_parallel, 2)
    for number, rows in enumerate((None, 0)):
        parts = [each[number] for each in both]
        for i, axis in enumerate([rows, rows, 0, 1]):
            whole = parts[0][i] if axis is None else torch.cat([part[i] for part in parts], axis)
            # Blocks are the same, since every part is a multiple of 128; sums are cut in two.
            assert (whole - one[number][i]).norm() <= 1e-3 * one[number][i].norm(), (rows, i)


def test_transformer_engine_is_told_v3s_recipe(monkeypatch):
    monkeypatch.setattr(build, "uses_te", lambda cfg: False)  # its modules cannot be built here, its fields can
    monkeypatch.setattr(fp8, "fp8_lacks", lambda: {"te": "", "torch": "", "emulated": ""})
    from megatron.core.transformer import transformer_config

    monkeypatch.setattr(transformer_config, "is_te_min_version", lambda version, *a, **k: True)
    config = build.megatron_config(ModelConfig(fp8=Fp8.te, dtype=DType.bf16))
    assert (config.fp8, config.fp8_recipe, config.fp8_param) == ("e4m3", "blockwise", False)
    assert config.moe_router_padding_for_quantization and not config.fp8_dot_product_attention
    assert not config.first_last_layers_bf16
    assert build.megatron_config(ModelConfig(dtype=DType.bf16)).fp8 is None
