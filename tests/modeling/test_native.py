"""The kernels in C against the same ones in torch and double precision, values and gradients."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

from modeling import kernels, native
from modeling.experts import _Experts

needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"kernels in C: {native.reason()}")
pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def _agree(function: Callable[..., object], reference: Callable[..., object], *inputs: torch.Tensor) -> None:
    """function of FP32 inputs (in C) and reference of the same in FP64: outputs, and gradients of a random sum."""
    assert native.usable(*inputs)
    results = []
    for f, dtype in ((function, torch.float32), (reference, torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        out = f(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        draw = torch.Generator().manual_seed(1)
        total = sum((o * torch.randn(o.shape, generator=draw).to(dtype)).sum() for o in outs)
        results.append([*outs, *torch.autograd.grad(total, leaves)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("width", [1, 8, 37, 128])
def test_rms_norm(width):
    weight = torch.rand(width) + 0.5
    _agree(
        lambda x, w: kernels.rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, (width,), w, 1e-6),
        torch.randn(5, 3, width),
        weight,
    )
    _agree(
        lambda x, w: kernels.rms_norm_residual(x, w, 1e-6),
        lambda x, w: (F.rms_norm(x, (width,), w, 1e-6), x.clone()),
        torch.randn(5, 3, width),
        weight,
    )


def test_rms_norm_of_a_slice():
    _agree(
        lambda x, w: kernels.rms_norm(x[..., :20], w, 1e-6),
        lambda x, w: F.rms_norm(x[..., :20], (20,), w, 1e-6),
        torch.randn(5, 3, 33),
        torch.rand(20),
    )


def test_swiglu_takes_large_inputs():
    x = torch.randn(7, 3, 24) * torch.tensor([1.0, 30.0, 300.0])[:, None]
    _agree(kernels.swiglu, lambda x: F.silu(x[..., :12]) * x[..., 12:], x)


@pytest.mark.parametrize(("seq", "d", "dv"), [(1, 8, 8), (5, 10, 6), (64, 48, 32), (77, 48, 40)])
def test_causal_attention(seq, d, dv):
    q, k, v = torch.randn(seq, 2, 3, d), torch.randn(seq, 2, 3, d), torch.randn(seq, 2, 3, dv)

    def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        return out.permute(2, 0, 1, 3).flatten(2)

    _agree(lambda *t: kernels.causal_attention(*t, 0.3), torchs, q, k, v)


def test_cross_entropy():
    target = torch.randint(0, 50, (6, 3))
    logits = torch.randn(6, 3, 50) * 20
    _agree(
        lambda x: kernels.cross_entropy(x, target),
        lambda x: F.cross_entropy(x.flatten(0, 1), target.flatten(), reduction="none").view(6, 3),
        logits,
    )
    with pytest.raises(IndexError, match="50"):
        kernels.cross_entropy(logits, target.fill_(50))


def test_rotations():
    angle = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.3, 0.1]))
    angle = torch.cat([angle, angle], -1)[:, None, None]

    def q(x: torch.Tensor) -> torch.Tensor:
        return kernels.mla_rope_q(x, angle.to(x.dtype).cos(), angle.to(x.dtype).sin(), 4, 6)

    def kv(x: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return kernels.mla_rope_kv(x, both[..., None, 3:], angle.to(x.dtype).cos(), angle.to(x.dtype).sin(), 6, 4, 5)

    _agree(q, q, torch.randn(7, 2, 3, 10))
    _agree(kv, kv, torch.randn(7, 2, 3, 9), torch.randn(7, 2, 9))


def test_experts():
    counts = [4, 0, 5, 1]
    inputs = torch.randn(10, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6), torch.rand(10)

    def one_by_one(x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        out = []
        for e, (run, p) in enumerate(zip(x.split(counts), probs.split(counts), strict=True)):
            gate, up = (run @ w1[e].T).chunk(2, -1)
            out.append(F.silu(gate) * up * p[:, None] @ w2[e].T)
        return torch.cat(out)

    _agree(lambda *t: _Experts.apply(*t, counts), one_by_one, *inputs)


@pytest.mark.parametrize("every", [False, True])
def test_routing(every):
    logits, bias = torch.randn(9, 6) * 2, torch.randn(6)

    def torchs(logits: torch.Tensor) -> torch.Tensor:
        scores = logits.sigmoid()
        _, top = (scores + bias).topk(2)
        weighed = scores if every else scores * torch.zeros_like(scores).scatter(1, top, 1)
        return 1.5 * weighed / weighed.sum(-1, keepdim=True)

    _agree(lambda x: kernels.route(x, 2, 1.5, bias, every)[0], torchs, logits)
    chosen = kernels.route(logits, 2, 1.5, bias, every)[1]
    assert torch.equal(chosen, torch.zeros(9, 6).scatter(1, (logits.sigmoid() + bias).topk(2)[1], 1).bool())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen(value):
    """Training stops on it, so no kernel may swallow it."""
    x = torch.randn(4, 2, 16)
    x[1, 1, 3] = value
    target = torch.zeros(4, 2, dtype=torch.int64)
    assert not kernels.rms_norm(x, torch.ones(16), 1e-6)[1, 1].isfinite().all()
    assert not kernels.swiglu(x)[1, 1].isfinite().all()
    assert not kernels.cross_entropy(x, target)[1, 1].isfinite()
    assert value == value or not kernels.route(x[1], 2)[0].isfinite().all()  # sigmoid(inf) is 1
    qkv = x.unflatten(-1, (2, 8))
    assert not kernels.causal_attention(qkv, qkv, qkv, 1.0)[1, 1].isfinite().all()
    assert kernels.rms_norm(x, torch.ones(16), 1e-6)[0].isfinite().all()


def test_without_a_compiler_torch_goes_on(tmp_path):
    code = (
        "import torch\nfrom modeling import kernels, native\ntorch.set_num_threads(1)\n"
        "assert native.library() is None and 'compiler' in native.reason(), native.reason()\n"
        "print(kernels.rms_norm(torch.ones(2, 4), torch.ones(4), 0.0).sum().item())"
    )
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "8.0", done.stderr
