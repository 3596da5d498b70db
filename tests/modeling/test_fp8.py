"""The FP8 recipe against the format's definition, hand-made blocks, and products written out in numpy."""

import math
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from infra import hardware
from infra.errors import ConfigError
from modeling import fp8
from modeling.config import DType, Experts, Fp8, ModelConfig, Modules
from modeling.fp8 import Quantised, dequantise, emulated_product, linear, quantise
from tests import e4m3


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers of many sizes, as activations with outliers have."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.exp(2 * torch.randn(*shape, generator=generator))


def test_every_code_has_the_value_of_its_definition():
    positive, negative = fp8._CODES[:127].double(), fp8._CODES[128:255].double()
    assert positive.tolist() == e4m3.GRID.tolist() == (-negative).tolist()
    assert fp8._CODES[[127, 255]].isnan().all()


def test_a_tile_by_hand():
    x = torch.zeros(2, 128)
    x[0, :4] = torch.tensor([1.0, 2.0, -3.5, 0.013])
    x[1, 5] = 448.0
    q = quantise(x, 1)
    assert q.scales.tolist() == [[3.5 / 448], [1.0]]
    # 0.013 * 128 = 1.664 lies between 1.625 and 1.75
    assert q.values[0, :4].float().tolist() == [128.0, 256.0, -448.0, 1.625]
    assert dequantise(q)[0, :5].tolist() == [1.0, 2.0, -3.5, 1.625 / 128, 0.0]
    assert dequantise(q)[1].tolist() == x[1].tolist()


def test_a_block_by_hand_and_its_neighbours():
    x = torch.zeros(256, 256)
    x[3, 4], x[100, 127] = 896.0, 2.0  # one block: scale 2
    x[3, 128], x[128, 5] = 56.0, -14.0  # the blocks to the right and below
    q = quantise(x, 128)
    assert q.scales.tolist() == [[2.0, 0.125], [1 / 32, fp8._SMALLEST]]
    assert [q.values[i, j].item() for i, j in ((3, 4), (100, 127), (3, 128), (128, 5))] == [448.0, 1.0, 448.0, -448.0]
    assert torch.equal(dequantise(q), x)
    assert torch.equal(dequantise(q.mT), x.T)


def test_small_numbers_round_to_the_subnormal_grid_ties_to_even():
    step = 2.0**-9
    given = [448.0, step, step / 2, 0.51 * step, 1.5 * step, 2.5 * step, -0.49 * step]
    row = F.pad(torch.tensor([given]), (0, 121))
    assert dequantise(quantise(row, 1))[0, :7].tolist() == [448.0, step, 0.0, step, 2 * step, 2 * step, -0.0]


def test_zeros_stay_zeros():
    for block in (1, 128):
        q = quantise(torch.zeros(128, 128), block)
        assert q.scales.isfinite().all() and not dequantise(q).any()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("block", [1, 128])
def test_a_block_with_what_is_no_number_is_none_and_the_others_are_untouched(bad: float, block: int):
    x = _random(256, 256)
    clean = dequantise(quantise(x, block))
    x[7, 200] = bad
    got = dequantise(quantise(x, block))
    hit = torch.zeros(256, 256, dtype=torch.bool)
    hit[slice(7, 8) if block == 1 else slice(0, 128), 128:] = True
    assert got[hit].isnan().all()
    assert torch.equal(got[~hit], clean[~hit])


def test_denormal_inputs_are_kept_as_far_as_a_normal_scale_reaches():
    least = struct.unpack("f", struct.pack("I", 1))[0]
    x = torch.zeros(3, 128)
    x[0, 0], x[1, 0], x[1, 1], x[2, 0] = least, 2.0**-126, 2.0**-130, 448 * 2.0**-126
    got = dequantise(quantise(x, 1))
    assert got[0, 0].item() == 0.0
    assert got[1, :2].tolist() == [2.0**-126, 2.0**-130] and got[2, 0].item() == 448 * 2.0**-126


def test_no_size_overflows_and_the_error_stays_within_half_a_step():
    x = _random(64, 128) * torch.logspace(-36, 36, 64).unsqueeze(1)
    got = dequantise(quantise(x, 1))
    assert got.isfinite().all()
    largest = x.abs().amax(1, keepdim=True)
    allowed = torch.maximum(x.abs() / 16, largest / 448 * 2.0**-10)
    assert ((got - x).abs() <= allowed * 1.0001).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 130), (130, 5), (128, 128), (200, 300)])
@pytest.mark.parametrize("block", [1, 128])
def test_quantised_equals_the_written_out_reference_whatever_the_shape(shape: tuple[int, int], block: int):
    x = _random(*shape, seed=1)
    expected = e4m3.through_fp8(x.numpy(), block, 128)
    got = dequantise(quantise(x, block))
    assert got.shape == shape
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_a_stack_is_quantised_matrix_by_matrix():
    x = _random(3, 130, 140)
    q = quantise(x, 128)
    for i in range(3):
        assert torch.equal(dequantise(q[i]), dequantise(quantise(x[i], 128)))


@pytest.mark.parametrize(("tokens", "inner", "outer"), [(7, 40, 24), (150, 260, 200), (256, 128, 128)])
def test_forward_and_both_backward_products_equal_the_written_out_reference(tokens: int, inner: int, outer: int):
    x, w, grad = _random(tokens, inner), _random(outer, inner, seed=1), _random(tokens, outer, seed=2)
    x.requires_grad_(), w.requires_grad_()
    y = linear(x.unflatten(0, (1, tokens)), w, emulated_product)
    y.backward(grad.unsqueeze(0))
    expected = e4m3.linear(x.detach().numpy(), w.detach().numpy(), grad.numpy())
    for name, got, right in zip(("y", "dx", "dw"), (y[0].detach(), x.grad, w.grad), expected, strict=True):
        error = np.linalg.norm(got.numpy() - right) / np.linalg.norm(right)
        assert error < 1e-6, (name, error)
    exact = (x @ w.T).detach().numpy()
    assert 0.005 < np.linalg.norm(expected[0] - exact) / np.linalg.norm(exact) < 0.06  # and it is FP8 that was compared


def test_bf16_in_gives_bf16_out_of_an_fp32_sum():
    x, w = _random(16, 256).bfloat16().requires_grad_(), _random(32, 256).bfloat16().requires_grad_()
    y = linear(x, w, emulated_product)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == w.grad.dtype == torch.bfloat16
    exact = linear(x.detach().float(), w.detach().float(), emulated_product)
    assert torch.equal(y, exact.bfloat16())


def test_no_tokens_give_no_output_and_no_gradient():
    x, w = torch.zeros(0, 40, requires_grad=True), _random(24, 40).requires_grad_()
    y = linear(x, w, emulated_product)
    y.sum().backward()
    assert y.shape == (0, 24) and x.grad.shape == (0, 40) and not w.grad.any()


def _cublas(a, b, scale_a, type_a, scale_b, type_b, output_dtype):
    """F.scaled_mm as its source and cuBLAS' manual have it: strict about layouts, scales read by address."""
    (m, k), n = a.shape, b.shape[1]
    assert a.is_contiguous() and b.t().is_contiguous() and a.dtype == b.dtype == torch.float8_e4m3fn
    assert m % 16 == k % 16 == n % 16 == 0
    kinds = F.ScalingType
    assert [type_a, type_b] != [kinds.BlockWise128x128] * 2, "cuBLAS has no product of two block-scaled matrices"

    def strides(scales, outer):
        """torch's source lets the stride of a single column be 1."""
        return scales.stride(0) == 1 and scales.stride(1) in ((outer, 1) if scales.shape[1] == 1 else (outer,))

    def numbers(values, scales, kind):
        rows, columns = values.shape
        blocks = -(-columns // 128)
        padded = -(-blocks // 4) * 4
        if kind is kinds.BlockWise1x128:
            assert scales.shape == (rows, blocks) and strides(scales, rows)
        else:
            assert kind is kinds.BlockWise128x128
            assert scales.shape == (padded, -(-rows // 128)) and strides(scales, padded)
        memory = scales.untyped_storage()[4 * scales.storage_offset() :]
        flat = np.frombuffer(bytes(memory), dtype=np.float32)
        out = values.double().numpy().copy()
        for i in range(rows):
            for block in range(blocks):
                at = block * rows + i if kind is kinds.BlockWise1x128 else i // 128 * padded + block
                out[i, block * 128 : (block + 1) * 128] *= flat[at]
        return out

    return torch.from_numpy(numbers(a, scale_a, type_a) @ numbers(b.t(), scale_b, type_b).T).to(output_dtype)


@pytest.mark.parametrize(("tokens", "inner", "outer"), [(7, 40, 24), (150, 700, 200), (256, 1280, 128)])
def test_the_torch_carrier_hands_cublas_what_it_reads_and_gets_the_emulated_result(
    monkeypatch, tokens: int, inner: int, outer: int
):
    monkeypatch.setattr(F, "scaled_mm", _cublas)
    results = []
    for product in (fp8.scaled_product, emulated_product):
        x, w = _random(tokens, inner).requires_grad_(), _random(outer, inner, seed=1).requires_grad_()
        y = linear(x, w, product)
        y.backward(_random(tokens, outer, seed=2))
        results.append((y.detach(), x.grad, w.grad))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_the_torch_carrier_makes_no_product_of_nothing(monkeypatch):
    monkeypatch.setattr(F, "scaled_mm", None)
    empty = Quantised(torch.zeros(0, 128).to(torch.float8_e4m3fn), torch.zeros(0, 1), 1, (0, 128))
    assert fp8.scaled_product(empty, quantise(torch.ones(5, 128), 128), torch.float32).shape == (0, 5)


def test_fp8_is_not_asked_for_by_default():
    assert fp8.carrier(ModelConfig()) is Fp8.none


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU other carriers run")
@pytest.mark.parametrize("name", ["te", "torch"])
def test_a_carrier_that_cannot_run_here_is_refused_with_what_it_lacks(name: str):
    with pytest.raises(ConfigError, match=f"model.fp8={name}: {name} needs a GPU of sm90.*set model.fp8=none"):
        fp8.carrier(ModelConfig(fp8=Fp8[name], dtype=DType.bf16))


def _machine(monkeypatch, **lacks: str) -> None:
    """A machine with a GPU, where carriers lack this."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fp8, "fp8_lacks", lambda: {"te": "", "torch": "", "emulated": ""} | lacks)


@pytest.mark.parametrize(
    ("lacks", "modules", "expected"),
    [
        ({}, "auto", Fp8.te),
        ({"te": "an engine"}, "auto", Fp8.torch),
        ({}, "local", Fp8.torch),
        ({"torch": "Hopper"}, "auto", Fp8.te),
    ],
)
def test_auto_takes_the_engine_then_torch(monkeypatch, lacks: dict, modules: str, expected: Fp8):
    _machine(monkeypatch, **lacks)
    cfg = ModelConfig(fp8=Fp8.auto, dtype=DType.bf16, modules=Modules[modules])
    assert fp8.carrier(cfg) is expected


@pytest.mark.parametrize(
    ("lacks", "settings", "said"),
    [
        ({"te": "an engine", "torch": "Hopper"}, {"dtype": DType.bf16}, "te needs an engine and torch needs Hopper"),
        ({"torch": "Hopper"}, {"dtype": DType.bf16, "modules": Modules.local}, "torch needs Hopper"),
        ({}, {}, "te needs model.dtype=bf16 and torch needs model.dtype=bf16"),
    ],
)
def test_auto_on_a_gpu_that_cannot_says_what_lacks(monkeypatch, lacks: dict, settings: dict, said: str):
    _machine(monkeypatch, **lacks)
    with pytest.raises(ConfigError, match=f"model.fp8=auto: {said}; set model.fp8=none"):
        fp8.carrier(ModelConfig(fp8=Fp8.auto, **settings))


def test_auto_without_a_gpu_is_the_emulation(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fp8.carrier(ModelConfig(fp8=Fp8.auto)) is Fp8.emulated


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(fp8=Fp8.te, modules=Modules.local, dtype=DType.bf16), "model.modules=.*fp8=te .* set model.modules=auto"),
        (dict(fp8=Fp8.emulated, modules=Modules.te), "model.modules=.*local modules; set model.modules=auto"),
        (dict(fp8=Fp8.torch, experts=Experts.grouped, dtype=DType.bf16), "model.experts=.*set model.experts=auto"),
        (dict(fp8=Fp8.torch), "model.dtype=fp32: .*set model.dtype=bf16, or model.fp8=emulated"),
    ],
)
def test_settings_that_fight_are_refused_at_once(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**settings)


def test_a_stored_shape_says_nothing_of_fp8():
    assert ModelConfig.from_names({"hidden_size": 64, "fp8": "torch"}) == ModelConfig(hidden_size=64)


@pytest.mark.parametrize(
    ("capability", "cuda", "engine", "runs"),
    [
        ((9, 0), "13.0", "2.20.2", ["te", "torch", "emulated"]),
        ((9, 0), "12.9", None, ["torch", "emulated"]),
        ((9, 0), "12.6", "2.20.2", ["emulated"]),
        ((9, 0), "12.9", "2.2", ["torch", "emulated"]),
        ((10, 0), "13.0", "2.14.0+abc", ["te", "emulated"]),
        ((8, 0), "13.0", "2.20.2", ["emulated"]),
        (None, "13.0", None, ["emulated"]),
    ],
)
def test_which_carriers_a_machine_has(monkeypatch, capability, cuda: str, engine: str | None, runs: list[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: engine and object())
    monkeypatch.setattr(hardware, "version", lambda package: engine)
    assert [name for name, lack in hardware.fp8_lacks().items() if not lack] == runs
    check = hardware._fp8()
    assert check.value.startswith(", ".join(runs)) and check.ok == (True if len(runs) > 1 else None)


@pytest.mark.gpu
@pytest.mark.skipif(hardware.compute_capability()[:2] != "9.", reason="needs an H100 or H200")
@pytest.mark.parametrize(("tokens", "inner", "outer"), [(7, 40, 24), (150, 700, 200), (2048, 1280, 512)])
def test_cublas_gives_the_emulated_result(tokens: int, inner: int, outer: int):
    results = []
    for product in (fp8.scaled_product, emulated_product):
        x, w, grad = (
            _random(*shape, seed=i).cuda().bfloat16()
            for i, shape in enumerate(((tokens, inner), (outer, inner), (tokens, outer)))
        )
        y = linear(x.requires_grad_(), w.requires_grad_(), product)
        y.backward(grad)
        results.append((y.detach(), x.grad, w.grad))
    for got, expected in zip(*results, strict=True):
        assert (got - expected).float().norm() <= 0.01 * expected.float().norm()
