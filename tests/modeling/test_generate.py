"""Sampling: the distribution that is drawn from, and what a row's answer may and may not depend on."""

import math

import pytest
import torch

from infra.errors import ConfigError
from modeling.draw import draw
from modeling.generate import Generator, Sampled, SamplingConfig
from modeling.stop import StopText
from tests.modeling.test_decode import full_logits, model, rows

STOPS = {3, 17, 20, 41, 55}


def setting(length: int = 12, **changes) -> SamplingConfig:
    return SamplingConfig(max_response_tokens=length, **changes)


@pytest.fixture(scope="module")
def network():
    return model()


@pytest.fixture(scope="module")
def generator(network):
    return Generator(*network)


def answers(generator: Generator, prompts: list[list[int]], sampling: SamplingConfig, **changes) -> list[Sampled]:
    arguments = dict(seeds=list(range(100, 100 + len(prompts))), stop_ids=set()) | changes
    return generator.generate(prompts, sampling, **arguments)


def logits_of(network, prompt: list[int], answer: Sampled) -> torch.Tensor:
    """Megatron's logits where each token of the answer was drawn, [response, vocab]."""
    return full_logits(network[0], [*prompt, *answer.tokens])[len(prompt) - 1 : -1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropies_are_those_of_the_full_forward(network, generator, temperature):
    prompts = rows([7, 3, 12, 1, 7])
    for prompt, answer in zip(prompts, answers(generator, prompts, setting(temperature=temperature)), strict=True):
        logprobs = (logits_of(network, prompt, answer) / temperature).log_softmax(-1)
        taken = logprobs.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        assert len(answer.tokens) == 12 and not answer.stopped
        torch.testing.assert_close(torch.tensor(answer.logprobs), taken, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(answer.entropies), entropies, rtol=0, atol=1e-4)


def test_top_p_draws_from_the_renormalised_nucleus(network, generator):
    prompts = rows([7, 3, 12, 1] * 4)
    for prompt, answer in zip(prompts, answers(generator, prompts, setting(top_p=0.6, temperature=0.9)), strict=True):
        for token, logprob, entropy, logits in zip(
            answer.tokens, answer.logprobs, answer.entropies, logits_of(network, prompt, answer), strict=True
        ):
            nucleus, mass = {}, 0.0
            for index in sorted(range(len(logits)), key=lambda i: -logits[i].item()):
                if mass >= 0.6:
                    break
                nucleus[index] = (logits / 0.9).softmax(-1)[index].item()
                mass += nucleus[index]
            assert logprob == pytest.approx(math.log(nucleus[token] / mass), abs=1e-4)
            by_hand = -sum(p / mass * math.log(p / mass) for p in nucleus.values())
            assert entropy == pytest.approx(by_hand, abs=1e-4)


def test_draw_by_hand():
    uniform, hand = torch.tensor([[0.6]]), [0.5, 0.3, 0.2]
    token, logprob, entropy = draw(torch.tensor([hand]).log(), uniform, setting())
    assert token.item() == 1
    assert logprob.item() == pytest.approx(math.log(0.3), abs=1e-6)
    assert entropy.item() == pytest.approx(-sum(p * math.log(p) for p in hand), abs=1e-6)
    token, logprob, entropy = draw(torch.tensor([hand]).log(), uniform, setting(top_p=0.7))
    assert token.item() == 0
    assert logprob.item() == pytest.approx(math.log(0.625), abs=1e-6)
    assert entropy.item() == pytest.approx(-0.625 * math.log(0.625) - 0.375 * math.log(0.375), abs=1e-6)


@pytest.mark.parametrize("vocab", [96, 100, 1024])
@pytest.mark.parametrize("top_p", [1.0, 0.99])
def test_tokens_without_probability_are_never_drawn(vocab, top_p):
    logits = torch.full((3, vocab), -300.0)
    logits[0, 5], logits[1, [40, 70]], logits[2, 33:64] = 0.0, 0.0, torch.randn(31)
    for u in (0.0, 0.5, 1 - 2**-24):
        token, logprob, _ = draw(logits.clone(), torch.full((3, 1), u), setting(top_p=top_p))
        assert token[0] == 5 and token[1] in (40, 70) and 33 <= token[2] < 64
        assert logprob.isfinite().all()


@pytest.mark.parametrize(("vocab", "top_p"), [(96, 1.0), (100, 1.0), (2048, 1.0), (200, 0.9), (2048, 0.97)])
def test_draw_inverts_the_cumulative_distribution(vocab, top_p):
    """Evenly spaced uniforms hit each token as often as its probability says, to one count."""
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * 2
    probabilities, order = logits.double().softmax(-1).sort(descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    expected = torch.zeros(vocab, dtype=torch.double).scatter(0, order, probabilities / probabilities.sum())
    count = 4000
    uniform = ((torch.arange(count) + 0.5) / count).unsqueeze(1)
    token, _, _ = draw(logits.repeat(count, 1), uniform, setting(top_p=top_p))
    hits = token.bincount(minlength=vocab)
    assert (hits - count * expected).abs().max() <= 1.5


def test_first_tokens_follow_the_distribution(network, generator):
    """Chi-square over 4000 seeds; the bound is 5 standard deviations above its mean."""
    prompt, count = rows([9])[0], 4000
    drawn = answers(generator, [prompt] * count, setting(1))
    hits = torch.tensor([answer.tokens[0] for answer in drawn]).bincount(minlength=64).double()
    expected = full_logits(network[0], prompt)[-1].double().softmax(-1) * count
    common = expected >= 5
    hits = torch.cat([hits[common], hits[~common].sum(0, keepdim=True)])
    expected = torch.cat([expected[common], expected[~common].sum(0, keepdim=True)])
    chi_square, freedom = ((hits - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom > 8
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_temperature_zero_takes_the_likeliest_token(network, generator):
    prompts = rows([7, 3, 12])
    for prompt, answer in zip(prompts, answers(generator, prompts, setting(temperature=0.0)), strict=True):
        assert answer.tokens == logits_of(network, prompt, answer).argmax(-1).tolist()
        assert answer.logprobs == answer.entropies == [0.0] * 12


@pytest.mark.parametrize("changes", [dict(), dict(top_p=0.8)])
def test_an_answer_does_not_depend_on_the_rows_beside_it(generator, changes):
    """Alone, together, in another order, through few places that are refilled: the same tokens."""
    prompts = rows([5 + 3 * row % 14 for row in range(24)]) * 2
    seeds = list(range(48))
    sampling = setting(30, **changes)
    together = answers(generator, prompts, sampling, seeds=seeds, stop_ids=STOPS)
    assert len({len(answer.tokens) for answer in together}) > 8
    backwards = answers(generator, prompts[::-1], sampling, seeds=seeds[::-1], stop_ids=STOPS)[::-1]
    few_places = answers(generator, prompts, sampling, seeds=seeds, stop_ids=STOPS, max_rows=7)
    for others in (backwards, few_places):
        assert [a.tokens for a in others] == [a.tokens for a in together]
        for mine, other in zip(together, others, strict=True):
            assert other.logprobs == pytest.approx(mine.logprobs, abs=1e-5)
            assert other.stopped == mine.stopped
    for row in (0, 13, 40):
        alone = answers(generator, [prompts[row]], sampling, seeds=[seeds[row]], stop_ids=STOPS)[0]
        assert alone.tokens == together[row].tokens


def in_parts(generator: Generator, prompts: list[list[int]], sampling: SamplingConfig, more: int, **changes):
    """The answers written `more` tokens at a time, and in how many parts each was."""
    whole, parts = [Sampled([], [], [], False) for _ in prompts], [0] * len(prompts)
    seeds = changes.pop("seeds")
    going = list(range(len(prompts)))
    while going:
        begun = [whole[i].tokens for i in going]
        ask = dict(seeds=[seeds[i] for i in going], begun=begun, more=more) | changes
        for i, part in zip(going, generator.generate([prompts[i] for i in going], sampling, **ask), strict=True):
            old = whole[i]
            assert 1 <= len(part.tokens) <= more
            columns = (old.tokens + part.tokens, old.logprobs + part.logprobs, old.entropies + part.entropies)
            whole[i], parts[i] = Sampled(*columns, part.stopped), parts[i] + 1
        going = [
            i for i in going if not whole[i].stopped and len(whole[i].tokens) < generator.limit(prompts[i], sampling)
        ]
    return whole, parts


@pytest.mark.parametrize("changes", [dict(), dict(temperature=0.7, top_p=0.8)])
@pytest.mark.parametrize("more", [1, 7])
def test_an_answer_in_parts_is_the_answer_written_at_once(generator, changes, more):
    prompts, seeds = rows([5 + 3 * row % 14 for row in range(32)]), list(range(32))
    ask = dict(seeds=seeds, stop_ids=STOPS, max_rows=20)
    whole = answers(generator, prompts, setting(40, **changes), **ask)
    parts, counts = in_parts(generator, prompts, setting(40, **changes), more, **ask)
    assert [a.tokens for a in parts] == [a.tokens for a in whole]
    assert [a.stopped for a in parts] == [a.stopped for a in whole]
    assert counts == [-(-len(a.tokens) // more) for a in whole] and len(set(counts)) > 3
    for part, at_once in zip(parts, whole, strict=True):
        assert part.logprobs == pytest.approx(at_once.logprobs, abs=1e-4)
        assert part.entropies == pytest.approx(at_once.entropies, abs=1e-4)


def test_a_stop_text_is_seen_across_parts(network, generator):
    pieces = ["ab"[i % 2] for i in range(network[1].vocab_size)]
    stop, prompts, seeds = StopText("abba", pieces, len(pieces)), rows([6] * 24), list(range(24))
    ask = dict(seeds=seeds, stop_ids=set(), stop_text=stop)
    whole = answers(generator, prompts, setting(40), **ask)
    parts, _ = in_parts(generator, prompts, setting(40), 3, **ask)
    assert [(a.tokens, a.stopped) for a in parts] == [(a.tokens, a.stopped) for a in whole]
    assert sum(a.stopped for a in whole) > 12


def test_what_has_ended_is_not_written_on(generator):
    with pytest.raises(ConfigError, match=r"begun\[0\]"):
        answers(generator, rows([6]), setting(3), begun=[[1, 2, 4]])
    with pytest.raises(ConfigError, match="more"):
        answers(generator, rows([6]), setting(3), more=0)


def test_waiting_prompts_take_the_places_of_finished_rows(generator, monkeypatch):
    sizes, step = [], generator.decoder.step
    monkeypatch.setattr(generator.decoder, "step", lambda ids, cache: sizes.append(len(ids)) or step(ids, cache))
    drawn = answers(generator, rows([6] * 120), setting(40), stop_ids=STOPS, max_rows=16)
    assert max(sizes) == 16
    # Every token but the first of each answer takes a row's step; the tail and ended rows may add a third.
    assert sum(sizes) < 1.33 * sum(len(answer.tokens) - 1 for answer in drawn)
    assert sizes[: len(sizes) // 2] == [16] * (len(sizes) // 2)


def test_a_prompt_asked_many_times_is_read_once(generator, monkeypatch):
    read, prefill = [], generator.decoder.prefill
    monkeypatch.setattr(
        generator.decoder, "prefill", lambda texts, *images: read.extend(texts) or prefill(texts, *images)
    )
    first, second = rows([6, 9])
    drawn = answers(generator, [first, second] * 8, setting())
    assert sorted(read, key=len) == [first, second]
    assert len({tuple(answer.tokens) for answer in drawn}) == 16


def test_seeds_decide_answers(generator):
    prompts = rows([6, 9])
    first = answers(generator, prompts, setting(), seeds=[1, 2**64 - 1])
    assert answers(generator, prompts, setting(), seeds=[1, 2**64 - 1]) == first
    other = answers(generator, prompts, setting(), seeds=[2, 3])
    assert all(a.tokens != b.tokens for a, b in zip(first, other, strict=True))


def test_answers_end_with_the_first_stop_token(generator):
    prompts = rows([6] * 40)
    free = answers(generator, prompts, setting(20))
    stopped = answers(generator, prompts, setting(20), stop_ids=STOPS)
    for long, short in zip(free, stopped, strict=True):
        end = next((at + 1 for at, token in enumerate(long.tokens) if token in STOPS), None)
        assert short.tokens == long.tokens[:end]
        assert short.stopped == (end is not None)
        assert len(short.tokens) == len(short.logprobs) == len(short.entropies)
    assert {answer.stopped for answer in stopped} == {True, False}


def test_rows_end_at_the_position_limit(generator):
    lengths = [50, 63, 60, 20]
    drawn = answers(generator, rows(lengths), setting(30))
    assert [len(answer.tokens) for answer in drawn] == [14, 1, 4, 30]
    assert not any(answer.stopped for answer in drawn)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([1] * 64, "max_position_embeddings"), ([], "is empty"), ([1, 64], "ids below 64"), ([-1], "ids below 64")],
)
def test_prompts_that_cannot_be_answered_are_refused(generator, prompt, message):
    with pytest.raises(ConfigError, match=message):
        answers(generator, [[1, 2], prompt], setting())
    with pytest.raises(ConfigError, match=message):
        generator.stream(prompt, setting(), seed=0, stop_ids=set())


def test_wrong_arguments_are_refused(generator):
    with pytest.raises(ConfigError, match="one seed to each"):
        answers(generator, [[1]], setting(), seeds=[])
    with pytest.raises(ConfigError, match="max_rows=0"):
        answers(generator, [[1]], setting(), max_rows=0)
    for wrong in (dict(temperature=-0.1), dict(top_p=0.0), dict(top_p=1.1), dict(max_response_tokens=0)):
        with pytest.raises(ConfigError, match=f"sampling.{next(iter(wrong))}"):
            SamplingConfig(**wrong)


def test_no_prompts_have_no_answers(generator):
    assert answers(generator, [], setting()) == []


def test_refresh_samples_from_the_new_weights():
    network = model(seed=5)
    generator = Generator(*network)
    prompt = rows([9])[0]
    before = answers(generator, [prompt], setting(temperature=0.0))[0]
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    generator.refresh()
    after = answers(generator, [prompt], setting(temperature=0.0))[0]
    assert after.tokens == logits_of(network, prompt, after).argmax(-1).tolist()
    assert after.tokens != before.tokens


def test_stream_yields_what_generate_returns(generator):
    prompt = rows([6])[0]
    for seed in range(6):
        whole = answers(generator, [prompt], setting(25), seeds=[seed], stop_ids=STOPS)[0]
        ids = []
        for token in generator.stream(prompt, setting(25), seed=seed, stop_ids=STOPS):
            assert not torch.is_inference_mode_enabled()
            ids.append(token)
        assert ids == whole.tokens
