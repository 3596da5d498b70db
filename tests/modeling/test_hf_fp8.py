"""FP8 with block scales, against values worked out block by block."""

import pytest
import torch

from modeling import hf_fp8
from modeling.config import ModelConfig
from modeling.hf_names import expected


def by_hand(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Each element times the scale of its block."""
    rows, columns = (torch.arange(size) // 128 for size in weight.shape)
    return weight.float() * scale[rows][:, columns]


@pytest.mark.parametrize("shape", [(128, 128), (576, 160), (1, 300), (130, 1)])
def test_dequantised_is_value_times_scale_of_its_block(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape).mul_(50).to(torch.float8_e4m3fn)
    scale = torch.rand(hf_fp8.scale_shape(shape)) + 0.5
    assert torch.equal(hf_fp8.dequantise(weight, scale), by_hand(weight, scale))


@pytest.mark.parametrize("shape", [(128, 128), (200, 300), (1, 130)])
def test_quantised_is_within_half_a_step_and_again_the_same(shape):
    torch.manual_seed(1)
    weight = torch.randn(shape) * torch.logspace(-6, 2, shape[1])
    found, scale = hf_fp8.quantise(weight)
    assert scale.shape == hf_fp8.scale_shape(shape) and scale.dtype == torch.float32
    back = by_hand(found, scale)
    # E4M3 has 3 bits of mantissa: 1/16 of a normal value, and half of 2^-9 below 2^-6, in units of the block's scale.
    assert ((back - weight).abs() <= torch.maximum(weight.abs() / 16, by_hand(torch.ones(shape), scale) * 2**-10)).all()
    for block in found.float().abs().split(128):
        assert all(part.max() == 448 for part in block.split(128, 1))
    again, same = hf_fp8.quantise(back)
    assert torch.equal(again.view(torch.uint8), found.view(torch.uint8))
    torch.testing.assert_close(same, scale, rtol=2e-7, atol=0)


def test_blocks_of_zeros_and_of_tiny_values_stay_finite():
    weight = torch.zeros(256, 128)
    weight[128:] = 1e-30
    found, scale = hf_fp8.quantise(weight)
    assert torch.equal(by_hand(found, scale)[:128], torch.zeros(128, 128)) and scale[0, 0] == 1
    torch.testing.assert_close(by_hand(found, scale)[128:], weight[128:], rtol=1e-6, atol=0)


def test_the_released_model_has_scales_for_its_projections_only():
    # deepseek-ai/DeepSeek-V3: 91,991 tensors, copies of embedding and head in the MTP module included.
    names = expected(ModelConfig.preset("671b"))
    quantised = [name for name in names if hf_fp8.is_quantised(name)]
    assert len(names) + len(quantised) + 2 == 91_991
    for kept in ("embed_tokens", "lm_head", "norm.weight", "gate.weight", "correction_bias", "eh_proj", "shared_head"):
        assert not any(kept in name for name in quantised)
