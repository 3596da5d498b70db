"""Decoding with the latent cache against Megatron's own forward over whole rows."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from infra.errors import ConfigError, R1Error
from modeling.build import build_model  # before megatron: it installs the CPU layer
from modeling.config import DType, Experts, ModelConfig, ScoringFunc
from modeling.decode import Decoder, LatentCache
from modeling.mtp import without_mtp
from tests.training.tiny import model_config
from training import parallel
from training.config import ParallelConfig

GROUPED = dict(n_routed_experts=8, num_experts_per_tok=4, n_group=4, topk_group=2, routed_scaling_factor=2.5)
YARN = dict(rope_factor=4.0, rope_original_max_position_embeddings=16, rope_mscale=0.7, rope_mscale_all_dim=0.4)
CASES = {
    "plain": dict(),
    "sequential_experts": dict(experts=Experts.sequential),
    "many_experts": dict(n_routed_experts=16),
    "groups_scaled": GROUPED,
    "direct_query": dict(q_lora_rank=None, n_shared_experts=2),
    "two_dense_no_shared": dict(num_hidden_layers=3, first_k_dense_replace=2, n_shared_experts=0),
    "yarn": YARN,
    "softmax": dict(scoring_func=ScoringFunc.softmax, num_experts_per_tok=3, routed_scaling_factor=1.7),
    # Latents wide enough that W_UK and W_UV are multiplied apart.
    "wide_latent": dict(kv_lora_rank=48, q_lora_rank=32),
    "wide_latent_direct_query": dict(kv_lora_rank=48, q_lora_rank=None),
}


def model(seed: int = 0, **changes) -> tuple[nn.Module, ModelConfig]:
    """A small network with weights large enough to show in the logits, and norms and router biases of its own."""
    parallel.init(ParallelConfig(), seed)
    cfg = model_config(**(dict(initializer_range=0.2) | changes))
    module = build_model(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if "norm" in name:
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
            elif "expert_bias" in name:
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return module, cfg


def rows(lengths: list[int], seed: int = 0, vocab: int = 64) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in lengths]


def full_logits(module: nn.Module, row: list[int]) -> Tensor:
    """Megatron's logits of one row, [seq, vocab]."""
    ids = torch.tensor([row])
    with torch.no_grad(), without_mtp(module):
        return module(ids, torch.arange(len(row)).unsqueeze(0), None)[0].float()


def decoded(decoder: Decoder, texts: list[list[int]], prompts: list[int]) -> list[Tensor]:
    """Logits after each token from the prompt's last on, when the prompts' lengths are these: [seq, vocab] per row."""
    logits, cache = decoder.prefill([text[:length] for text, length in zip(texts, prompts, strict=True)])
    out = [[row.clone()] for row in logits]
    for at in range(max(len(text) - length for text, length in zip(texts, prompts, strict=True))):
        ids = [text[min(length + at, len(text) - 1)] for text, length in zip(texts, prompts, strict=True)]
        for row, step in zip(out, decoder.step(torch.tensor(ids), cache), strict=True):
            row.append(step.clone())
    return [torch.stack(row)[: len(text) - length + 1] for row, text, length in zip(out, texts, prompts, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_decoding_equals_the_whole_forward(case):
    module, cfg = model(**CASES[case])
    texts, prompts = rows([30, 21, 40, 12, 25]), [7, 20, 1, 11, 13]
    for row, text, length in zip(decoded(Decoder(module, cfg), texts, prompts), texts, prompts, strict=True):
        reference = full_logits(module, text)[length - 1 :]
        assert reference.abs().max() > 1
        torch.testing.assert_close(row, reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["plain", "groups_scaled"])
def test_many_rows_and_many_prompts_equal_the_whole_forward(case, monkeypatch):
    monkeypatch.setattr("modeling.decode.PREFILL_TOKENS", 64)
    monkeypatch.setattr("modeling.decode.CHUNK_ROWS", 16)
    monkeypatch.setattr("modeling.decode.GROW", 4)
    module, cfg = model(**CASES[case])
    prompts = [1 + 7 * row % 11 for row in range(80)]
    texts = rows([length + 6 for length in prompts])
    for row, text, length in zip(decoded(Decoder(module, cfg), texts, prompts), texts, prompts, strict=True):
        torch.testing.assert_close(row, full_logits(module, text)[length - 1 :], rtol=0, atol=1e-4)


def test_folded_and_separate_products_are_both_covered():
    folded = {case: Decoder(*model(**CASES[case])).layers[0][0] for case in ("plain", "wide_latent")}
    assert folded["plain"].w_uk is None and folded["plain"].w_uv is None
    assert folded["wide_latent"].w_uk is not None and folded["wide_latent"].w_uv is not None


def test_bf16_decoding_is_near_the_whole_forward():
    module, cfg = model(dtype=DType.bf16, initializer_range=0.1)
    texts, prompts = rows([30, 21, 40]), [7, 20, 1]
    for row, text, length in zip(decoded(Decoder(module, cfg), texts, prompts), texts, prompts, strict=True):
        reference = full_logits(module, text)[length - 1 :]
        assert row.dtype == torch.float32
        difference = (row - reference).abs().mean() / reference.abs().mean()
        assert difference < 0.05, difference


def test_gathered_rows_go_on_as_before():
    module, cfg = model()
    decoder = Decoder(module, cfg)
    texts, prompts = rows([20, 24, 22, 16]), [10, 14, 12, 6]
    apart = decoded(decoder, texts, prompts)
    _, first = decoder.prefill([text[:length] for text, length in zip(texts[:3], prompts[:3], strict=True)])
    decoder.step(torch.tensor([text[length] for text, length in zip(texts[:3], prompts[:3], strict=True)]), first)
    _, second = decoder.prefill([texts[3][:7]])
    cache = LatentCache.gather([(first, torch.tensor([2, 0])), (second, torch.tensor([0]))])
    assert cache.lengths.tolist() == [13, 11, 7]
    logits = decoder.step(torch.tensor([texts[2][13], texts[0][11], texts[3][7]]), cache)
    torch.testing.assert_close(logits, torch.stack([apart[2][2], apart[0][2], apart[3][2]]), rtol=0, atol=1e-5)


def test_refresh_takes_over_new_weights():
    module, cfg = model(experts=Experts.sequential)
    decoder = Decoder(module, cfg)
    text = rows([20])
    before = decoded(decoder, text, [8])[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    decoder.refresh()
    after = decoded(decoder, text, [8])[0]
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, full_logits(module, text[0])[7:], rtol=0, atol=1e-4)


def test_training_is_left_alone():
    module, cfg = model()
    module.train()
    decoder = Decoder(module, cfg)
    counters = [b for name, b in module.named_buffers() if "tokens_per_expert" in name]
    before = [counter.clone() for counter in counters]
    with torch.inference_mode():
        decoded(decoder, rows([20, 24]), [8, 3])
    assert counters and all(torch.equal(a, b) for a, b in zip(before, counters, strict=True))
    # Megatron's cached rotary tables have to stay usable for autograd.
    ids = torch.tensor(rows([24]))
    module(ids, torch.arange(24).unsqueeze(0), None, labels=ids).sum().backward()
    assert module.embedding.word_embeddings.weight.grad.abs().sum() > 0


def test_wrapped_models_are_unwrapped():
    module, cfg = model()
    wrapped = nn.Module()
    wrapped.module = module
    assert Decoder(wrapped, cfg).module is module


def test_models_cut_over_ranks_and_built_with_transformer_engine_are_refused():
    module, cfg = model()
    uncut, module.config = module.config, dataclasses.replace(module.config, tensor_model_parallel_size=2)
    with pytest.raises(ConfigError, match="parallel.tensor=2"):
        Decoder(module, cfg)
    module.config = uncut
    fused = module.decoder.layers[0].mlp.linear_fc1
    fused.layer_norm_weight = nn.Parameter(torch.ones(cfg.hidden_size))
    with pytest.raises(R1Error, match="modeling|model.modules=local"):
        Decoder(module, cfg)
