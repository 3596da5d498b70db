"""Megatron's dynamic inference engine on our network. The engine itself is for CUDA; here it runs on the CPU layer with
its pinned memory and memory statistics stood in for, so that everything but the speed is what a GPU runs."""

from collections import defaultdict

import pytest
import torch

from infra.errors import ConfigError, R1Error
from modeling import cpu
from modeling.draw import distribution
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import Placement, RolloutConfig
from rl.rollout import megatron
from rl.rollout.paged import paged_attention, paged_decode
from rl.types import Question
from tests.modeling.test_decode import full_logits, model
from training.config import ParallelConfig

needs_layer = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for CUDA on machines without it")
QUESTIONS = [Question(f"q{i}", "countdown", f"Make {i} from {'1, ' * i}2.", "", {}) for i in range(4)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Make 1 from 2, 3. <think> 2 + 3 </think>"], 300)


@pytest.fixture
def on_cpu(monkeypatch):
    """What the engine asks of CUDA beyond what the CPU layer gives to training."""
    stand_in = cpu._stand_in

    def unpinned(factory):
        return lambda *args, pin_memory=False, **kwargs: factory(*args, **kwargs)

    for name in cpu._FACTORIES:
        monkeypatch.setattr(stand_in, name, unpinned(getattr(stand_in, name)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *args: tensor)
    monkeypatch.setattr(stand_in.cuda, "memory_stats", lambda *args: defaultdict(int))
    monkeypatch.setattr(megatron, "_check", lambda layout: None)


def engine_of(network, tokenizer, sampling: SamplingConfig, **rollout) -> megatron.MegatronEngine:
    cfg = RolloutConfig(cache_gib=1, **rollout)
    engine = megatron.MegatronEngine(cfg, network[1], ParallelConfig(), tokenizer, sampling, seed=3, max_rows=16)
    engine.load_weights(network[0], version=0)
    return engine


@pytest.fixture(scope="module")
def network():
    return model(vocab_size=320, initializer_range=0.1)


@needs_layer
@pytest.mark.parametrize(
    ("sampling", "placement"),
    [(dict(), Placement.colocated), (dict(temperature=0.7, top_p=0.8), Placement.separate)],
)
def test_answers_come_with_the_network_s_logprobs(on_cpu, network, tokenizer, sampling, placement):
    """Twice, so that the engine was suspended in between; more requests than places, of different lengths."""
    sampling = SamplingConfig(max_response_tokens=10, **sampling)
    engine = engine_of(network, tokenizer, sampling, placement=placement)
    first = engine.generate(QUESTIONS, 5, step=0)
    assert len(engine.generate(QUESTIONS, 5, step=0)) == len(first)  # once more, after a rest
    assert engine.generate(QUESTIONS[:1], 5, step=1)[0] != first[0]
    assert {a.stopped for group in first for a in group} == {True, False}
    for question, group in zip(QUESTIONS, first, strict=True):
        prompt = engine.prompt_ids(question)
        assert len(group) == 5
        for answer in group:
            logits = full_logits(network[0], [*prompt, *answer.tokens])[len(prompt) - 1 : -1]
            p = distribution(logits.clone(), sampling)
            taken = p.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1).log()
            # The token at the nucleus' border, whose share may round to either side, holds up to 1 %.
            tolerance = 1e-5 if sampling.top_p == 1 else 1e-2
            torch.testing.assert_close(torch.tensor(answer.sampler_logprobs), taken, rtol=0, atol=tolerance)
            stops = [token in engine.stop_ids for token in answer.tokens]
            assert stops.index(True) == len(stops) - 1 if answer.stopped else not any(stops) and len(stops) == 10


@needs_layer
def test_the_trainer_is_left_alone_and_its_new_weights_are_taken_over(on_cpu, tokenizer):
    from megatron.core.inference.utils import InferenceMode

    network = model(seed=4, vocab_size=320)
    before = {name: tensor.clone() for name, tensor in network[0].state_dict().items() if torch.is_tensor(tensor)}
    engine = engine_of(network, tokenizer, SamplingConfig(max_response_tokens=6, temperature=0.0))
    greedy = engine.generate(QUESTIONS[:2], 1, step=0)
    assert not InferenceMode.is_active() and not network[0].config.cache_mla_latents
    assert all(torch.equal(before[name], network[0].state_dict()[name]) for name in before)
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    engine.load_weights(network[0], version=5)
    for question, old, (new,) in zip(QUESTIONS, greedy, engine.generate(QUESTIONS[:2], 1, step=0), strict=False):
        prompt = engine.prompt_ids(question)
        logits = full_logits(network[0], [*prompt, *new.tokens])[len(prompt) - 1 : -1]
        assert new.tokens == logits.argmax(-1).tolist() and new.version == 5 and new.tokens != old[0].tokens


@needs_layer
def test_a_request_that_does_not_fit_is_told(on_cpu, network, tokenizer):
    engine = engine_of(network, tokenizer, SamplingConfig(max_response_tokens=6))
    with pytest.raises(R1Error, match="leaves no room"):
        engine.generate([Question("long", "countdown", "Make " * 80, "", {})], 1, step=0)
    assert engine.generate(QUESTIONS[:1], 1, step=0)  # it goes on


@needs_layer
def test_without_cuda_it_is_refused(tokenizer, network):
    with pytest.raises(ConfigError, match="rl.rollout.engine=megatron: .*CUDA.*; set rl.rollout.engine=local"):
        engine_of(network, tokenizer, SamplingConfig())


def pages_of(texts: list[torch.Tensor], size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [length, ...] laid into shuffled pages -> pages [count, size, ...], table [rows, most pages]."""
    counts = [-(-len(text) // size) for text in texts]
    order = torch.randperm(sum(counts) + 1, generator=torch.Generator().manual_seed(0)).tolist()
    pages = torch.full((len(order), size, *texts[0].shape[1:]), 50.0)
    table = torch.full((len(texts), max(counts)), -1, dtype=torch.int32)
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
        for place in range(count):
            table[row, place] = order.pop()
            piece = text[place * size : (place + 1) * size]
            pages[table[row, place], : len(piece)] = piece
    return pages, table


def test_paged_attention_equals_attention_over_whole_rows():
    """New tokens of three requests, a place without a request and padding; heads share the latents."""
    generator = torch.Generator().manual_seed(1)
    lengths, new, heads, rank, scale = [9, 4, 13], [9, 1, 3], 3, 5, 0.3
    queries = [torch.randn(n, heads, 7, generator=generator) for n in new]
    texts = [torch.randn(n, 7, generator=generator) for n in lengths]
    latents, table = pages_of(texts)
    starts = torch.tensor([0, 9, 10, 13, 13])
    query, pages = torch.cat([*queries, torch.ones(2, heads, 7)]), torch.cat([table, table[:1]])
    out = paged_attention(query, latents, starts, torch.tensor([*lengths, 0]), pages, rank, scale)
    for row, (begin, end) in enumerate([(0, 9), (9, 10), (10, 13)]):
        mask = torch.ones(end - begin, lengths[row], dtype=torch.bool).tril(lengths[row] - (end - begin))
        keys = texts[row].expand(heads, -1, -1)
        expected = torch.nn.functional.scaled_dot_product_attention(
            queries[row].transpose(0, 1), keys, keys[..., :rank], attn_mask=mask, scale=scale
        )
        torch.testing.assert_close(out[begin:end], expected.transpose(0, 1))
    assert (out[13:] == 0).all()


def test_decoding_attention_equals_attention_over_whole_rows():
    generator = torch.Generator().manual_seed(2)
    lengths, heads, rank, scale = [9, 4, 13], 3, 5, 0.3
    query = torch.randn(3, heads, 7, generator=generator)
    texts = [torch.randn(n, 7, generator=generator) for n in lengths]
    latents, table = pages_of(texts)
    out = paged_decode(query, latents, torch.tensor(lengths), table, rank, scale)
    for row, text in enumerate(texts):
        weights = (scale * query[row] @ text.T).softmax(-1)
        torch.testing.assert_close(out[row], weights @ text[:, :rank])


def test_flash_kernels_are_told_that_all_requests_decode(network, monkeypatch):
    """Core 0.19.2 calls its own kernel without that argument; where FlashMLA is there and has the shape, we add it."""
    from megatron.core.transformer import attention as kernels

    monkeypatch.setattr(kernels, "HAVE_FMLA", True)

    class Shape:
        kv_lora_rank, qk_rope_head_dim, qk_nope_head_dim = 512, 64, 128

    class Attention:
        softmax_scale = 1.0

        def flash_decode_and_prefill(self, *args):
            return args

    class Context:
        def is_decode_only(self):
            return True

    assert megatron._kernel(Attention(), Context(), Shape())(*range(9)) == (*range(9), True)
