"""The CPU kernels against torch's own operations and against numerical gradients."""

import pytest
import torch
import torch.nn.functional as F

from modeling.attention import CoreAttention
from modeling.kernels import mla_rope_kv, mla_rope_q, rms_norm

SEQ, BATCH, HEADS, NOPE, ROPE, VALUE = 5, 2, 3, 4, 6, 4


def _double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _tables() -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.outer(torch.arange(SEQ + 2.0), torch.tensor([1.0, 0.3, 0.1])).double()
    angle = torch.cat([angle, angle], -1)[:, None, None]
    return angle.cos(), angle.sin()


def test_rms_norm_is_torchs():
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3, 8), torch.randn(8)
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), F.rms_norm(x, (8,), weight, 1e-6))


def test_rms_norm_gradient():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (_double(3, 2, 5), _double(5)))


def test_query_is_turned_as_complex_numbers_are():
    torch.manual_seed(0)
    q, (cos, sin) = _double(SEQ, BATCH, HEADS, NOPE + ROPE), _tables()
    out = mla_rope_q(q, cos, sin, NOPE, ROPE)
    turn = torch.complex(cos, sin)[:SEQ, ..., : ROPE // 2]
    expected = torch.view_as_complex(q[..., NOPE:].unflatten(-1, (-1, 2)).contiguous()) * turn
    torch.testing.assert_close(out[..., NOPE:], torch.cat([expected.real, expected.imag], -1))
    assert torch.equal(out[..., :NOPE], q[..., :NOPE])


def test_rotation_gradients():
    torch.manual_seed(0)
    cos, sin = _tables()
    q, kv = (_double(SEQ, BATCH, HEADS, NOPE + more) for more in (ROPE, VALUE))
    k = _double(SEQ, BATCH, 1, ROPE)
    assert torch.autograd.gradcheck(lambda t: mla_rope_q(t, cos, sin, NOPE, ROPE), (q,))
    assert torch.autograd.gradcheck(lambda a, b: mla_rope_kv(a, b, cos, sin, ROPE, NOPE, VALUE), (kv, k))


def test_every_head_gets_the_same_turned_key():
    torch.manual_seed(0)
    cos, sin = _tables()
    kv, k = _double(SEQ, BATCH, HEADS, NOPE + VALUE), _double(SEQ, BATCH, 1, ROPE)
    key, value = mla_rope_kv(kv, k, cos, sin, ROPE, NOPE, VALUE)
    alone = mla_rope_q(k, cos, sin, 0, ROPE)
    assert torch.equal(key[..., NOPE:], alone.expand(-1, -1, HEADS, -1))
    assert torch.equal(key[..., :NOPE], kv[..., :NOPE]) and torch.equal(value, kv[..., NOPE:])


@pytest.mark.parametrize("seq", [1, 7, 200])
def test_core_attention_is_softmax_of_scores(seq):
    torch.manual_seed(0)
    q, k, v = torch.randn(seq, 2, 3, 10), torch.randn(seq, 2, 3, 10), torch.randn(seq, 2, 3, 6)
    scores = torch.einsum("sbnd,tbnd->bnst", q, k) * 0.3
    later = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    expected = torch.einsum("bnst,tbnd->sbnd", weights, v).flatten(2)
    attention = CoreAttention(None, 0.3)
    torch.testing.assert_close(attention(q, k, v, None), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention(q, k, v, later[None, None]), expected, rtol=1e-4, atol=1e-5)
