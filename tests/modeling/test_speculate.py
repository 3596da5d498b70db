"""Speculative sampling against Megatron's own MTP module, the full forward, and the plain sampler's distribution."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from infra.errors import ConfigError
from modeling.draft import DraftingDecoder
from modeling.draw import distribution, draw, invert
from modeling.generate import Generator
from modeling.sampling import SamplingConfig
from modeling.speculate import SpeculativeGenerator, generator_for, verify
from tests.modeling.test_decode import CASES, full_logits, model, rows
from tests.modeling.test_generate import STOPS, answers, logits_of, setting

# Under the null hypothesis a test fails once in a thousand seeds; the seeds are fixed, so it either does or does not.
LEAST_P = 1e-3


def mtp_logits(module, row: list[int]) -> torch.Tensor:
    """Megatron's MTP logits of one row, [seq, vocab]: entry i speaks of token i + 2; the last one lacks its token."""
    taken = []
    hook = module.mtp.register_forward_hook(lambda _, args, out: taken.append(out))
    ids = torch.tensor([row])
    with torch.no_grad():
        module(ids, torch.arange(len(row)).unsqueeze(0), None, labels=ids)
        hook.remove()
        _, hidden = taken[0].chunk(2)  # the main model's states, then the module's
        return module.output_layer(hidden)[0].squeeze(1).float()


@pytest.fixture(scope="module")
def network():
    """Weights that make tokens differ in probability, and still let the drafter be right by chance."""
    return model(initializer_range=0.12)


@pytest.fixture(scope="module")
def plain(network):
    return Generator(*network)


@pytest.fixture(scope="module")
def speculative(network):
    return SpeculativeGenerator(*network)


@pytest.mark.parametrize("case", ["plain", "groups_scaled", "direct_query", "yarn", "wide_latent"])
def test_drafts_and_checks_are_those_of_the_full_forward(case):
    """Rows of different lengths; each either keeps both tokens it read or forgets the second, as in verification."""
    module, cfg = model(**CASES[case])
    decoder = DraftingDecoder(module, cfg)
    texts, prompts = rows([34, 21, 40, 12]), [7, 9, 1, 3]
    _, cache = decoder.prefill([text[:length] for text, length in zip(texts, prompts, strict=True)])
    hidden = torch.stack([cache.hidden, torch.full_like(cache.hidden, 7.0)], 1)
    at, fresh = list(prompts), torch.ones(4, dtype=torch.long)
    following = torch.tensor([[text[length], 0] for text, length in zip(texts, prompts, strict=True)])
    for keep in ([2, 1, 2, 1], [1, 1, 2, 2], [2, 2, 1, 1], [1, 2, 1, 2]):
        drafted = decoder.draft(hidden, following, fresh, cache)
        # A token that does not stand is another than the text's.
        ids = [[t[n], t[n + 1] if k == 2 else (t[n + 1] + 1) % 64] for t, n, k in zip(texts, at, keep, strict=True)]
        logits, hidden = decoder.read_two(torch.tensor(ids), cache)
        for row, (text, n, k) in enumerate(zip(texts, at, keep, strict=True)):
            torch.testing.assert_close(drafted[row], mtp_logits(module, text[: n + 1])[n - 1], rtol=0, atol=1e-4)
            expected = full_logits(module, text[:n] + ids[row])[n:]
            torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-4)
            at[row] = n + k
        following = torch.tensor(
            [t[n - k + 1 : n + 1] + [0] * (2 - k) for t, n, k in zip(texts, at, keep, strict=True)]
        )
        fresh = torch.tensor(keep)
        cache.keep(torch.tensor(at))


def test_what_stands_is_distributed_like_the_network_whatever_the_drafter_believes():
    """Evenly spaced uniforms in all three dimensions: every token comes as often as p says, to the grid's width."""
    count = 60
    grid = (torch.arange(count) + 0.5) / count
    u = torch.stack([axis.flatten() for axis in torch.meshgrid(grid, grid, grid, indexing="ij")], 1)
    cases = [
        ([0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]),
        ([0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]),
        ([0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.1, 0.3]),
        ([0.4, 0.1, 0.2, 0.3], [0.4, 0.1, 0.2, 0.3]),
    ]
    for p, q in (map(torch.tensor, case) for case in cases):
        many_p, many_q = p.repeat(len(u), 1), q.repeat(len(u), 1)
        proposed = invert(many_q, u[:, :1].contiguous())[0].squeeze(1)
        accepted, token = verify(many_p, many_q, proposed, u[:, 1:])
        shares = token.bincount(minlength=4) / len(u)
        torch.testing.assert_close(shares, p, rtol=0, atol=3 / count)
        assert (shares[p == 0] == 0).all() and (token == proposed)[accepted].all()
        overlap = torch.minimum(p, q).sum().item()  # Leviathan et al., theorem 3.5
        assert accepted.float().mean().item() == pytest.approx(overlap, abs=2 / count)


@pytest.mark.parametrize("changes", [dict(), dict(temperature=0.6), dict(top_p=0.8), dict(temperature=1.3, top_p=0.5)])
def test_the_distribution_is_the_one_that_draw_draws_from(changes):
    logits = 2 * torch.randn(300, 96, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(300, 1, generator=torch.Generator().manual_seed(2))
    token, logprob, entropy = draw(logits.clone(), uniform, setting(**changes))
    p = distribution(logits, setting(**changes))
    torch.testing.assert_close(p.sum(-1), torch.ones(300))
    torch.testing.assert_close(p.gather(1, token.unsqueeze(1)).squeeze(1).log(), logprob, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.special.entr(p).sum(-1), entropy, rtol=0, atol=1e-4)


def test_greedy_answers_are_the_plain_sampler_s_token_for_token(plain, speculative):
    prompts = rows([5 + 3 * row % 14 for row in range(40)])
    for stop_ids, max_rows in ((set(), 256), (STOPS, 7)):
        arguments = dict(stop_ids=stop_ids, max_rows=max_rows)
        expected = answers(plain, prompts, setting(30, temperature=0.0), **arguments)
        assert answers(speculative, prompts, setting(30, temperature=0.0), **arguments) == expected
    assert 0 < speculative.accepted < speculative.proposed  # both ways were taken


@pytest.mark.parametrize("changes", [dict(), dict(temperature=0.7), dict(temperature=0.9, top_p=0.7)])
def test_logprobs_and_entropies_are_those_of_the_network(network, speculative, changes):
    prompts = rows([7, 3, 12, 1, 7, 9] * 3)
    for prompt, answer in zip(prompts, answers(speculative, prompts, setting(**changes)), strict=True):
        p = distribution(logits_of(network, prompt, answer).clone(), setting(**changes))
        taken = p.gather(1, torch.tensor(answer.tokens).unsqueeze(1)).squeeze(1).log()
        torch.testing.assert_close(torch.tensor(answer.logprobs), taken, rtol=0, atol=2e-4)
        torch.testing.assert_close(torch.tensor(answer.entropies), torch.special.entr(p).sum(-1), rtol=0, atol=2e-4)


def fits(counts: Counter, expected: dict) -> float:
    """p-value of Pearson's chi-square of counts against expected counts; rare cells are joined up to 10 expected."""
    assert all(expected[key] > 0 for key in counts)
    cells, rare = [], [0.0, 0.0]
    for key, wanted in sorted(expected.items(), key=lambda item: item[1]):
        rare = [rare[0] + counts[key], rare[1] + wanted]
        if rare[1] >= 10:
            cells.append(rare)
            rare = [0.0, 0.0]
    observed, wanted = zip(*cells, strict=True)
    assert len(cells) > 20 and rare == [0.0, 0.0]
    scale = sum(observed) / sum(wanted)  # FP32 sums to 1 but for rounding
    return stats.chisquare(observed, [scale * value for value in wanted]).pvalue


def same(left: Counter, right: Counter) -> float:
    """p-value of the chi-square of homogeneity of two samples of one size; cells below 20 in all are one cell."""
    common = [key for key in left | right if left[key] + right[key] >= 20]
    table = [[sample[key] for key in common] for sample in (left, right)]
    for row, sample in zip(table, (left, right), strict=True):
        row.append(sum(sample.values()) - sum(row))
    assert len(common) > 15
    return stats.chi2_contingency([row for row in zip(*table, strict=True) if sum(row)]).pvalue


@pytest.mark.parametrize("changes", [dict(temperature=0.35), dict(temperature=0.5, top_p=0.8)])
def test_100_000_tokens_with_and_without_speculation_cannot_be_told_apart(network, plain, speculative, changes):
    """20,000 answers of 5 tokens each way. Single tokens and pairs against their exact probabilities; each token and
    each run of three consecutive ones against the plain sampler's."""
    prompt, count, length, tokens = rows([9])[0], 20_000, 5, range(64)
    drawn = {}
    for name, generator, start in (("plain", plain, 0), ("speculative", speculative, count)):
        given = dict(seeds=list(range(start, start + count)), max_rows=2048)
        drawn[name] = [a.tokens for a in answers(generator, [prompt] * count, setting(length, **changes), **given)]
    assert sum(map(len, drawn["speculative"])) == 100_000

    first = distribution(full_logits(network[0], prompt)[-1:].clone(), setting(**changes))[0].double()
    second = torch.stack([full_logits(network[0], [*prompt, token])[-1] for token in tokens])
    second = distribution(second, setting(**changes)).double()
    exact = {(a, b): count * (first[a] * second[a, b]).item() for a, b in itertools.product(tokens, tokens)}
    for sample in drawn.values():
        assert fits(Counter((a[0], a[1]) for a in sample), exact) > LEAST_P
        marginal = dict(enumerate((count * (first @ second)).tolist()))
        assert fits(Counter(a[1] for a in sample), marginal) > LEAST_P
    for start, end in [(i, i + 1) for i in range(length)] + [(i, i + 3) for i in range(length - 2)]:
        cut = [Counter(tuple(a[start:end]) for a in drawn[name]) for name in drawn]
        assert same(*cut) > LEAST_P, (start, end)


def test_the_stated_test_would_notice_a_drafter_whose_word_is_taken(network, plain, monkeypatch):
    """The same comparison fails when every proposal is accepted: it has the power to tell."""

    def credulous(p, q, proposed, uniform):
        return torch.ones_like(proposed, dtype=torch.bool), proposed

    monkeypatch.setattr("modeling.speculate.verify", credulous)
    prompt, given = rows([9])[0], dict(seeds=list(range(4000)), max_rows=2048)
    left, right = (
        Counter(a.tokens[1] for a in answers(generator, [prompt] * 4000, setting(2), **given))
        for generator in (plain, SpeculativeGenerator(*network))
    )
    assert same(left, right) < 1e-9


def test_an_answer_does_not_depend_on_the_rows_beside_it(speculative):
    prompts = rows([5 + 3 * row % 14 for row in range(24)]) * 2
    seeds, sampling = list(range(48)), setting(30, top_p=0.9)
    together = answers(speculative, prompts, sampling, seeds=seeds, stop_ids=STOPS)
    few_places = answers(speculative, prompts, sampling, seeds=seeds, stop_ids=STOPS, max_rows=7)
    assert [a.tokens for a in few_places] == [a.tokens for a in together]
    for row in (0, 13, 40):
        alone = answers(speculative, [prompts[row]], sampling, seeds=[seeds[row]], stop_ids=STOPS)[0]
        assert alone.tokens == together[row].tokens


def test_answers_end_at_stop_tokens_and_limits(speculative):
    free = answers(speculative, rows([6] * 40), setting(20))
    stopped = answers(speculative, rows([6] * 40), setting(20), stop_ids=STOPS)
    for long, short in zip(free, stopped, strict=True):
        end = next((at + 1 for at, token in enumerate(long.tokens) if token in STOPS), None)
        assert short.tokens == long.tokens[:end] and short.stopped == (end is not None)
        assert len(short.tokens) == len(short.logprobs) == len(short.entropies)
    assert {answer.stopped for answer in stopped} == {True, False}
    at_the_end = answers(speculative, rows([50, 63, 60, 62, 20]), setting(30))
    assert [len(answer.tokens) for answer in at_the_end] == [14, 1, 4, 2, 30]


def test_stream_yields_what_generate_returns(speculative):
    prompt = rows([6])[0]
    for seed in range(6):
        whole = answers(speculative, [prompt], setting(25), seeds=[seed], stop_ids=STOPS)[0]
        assert list(speculative.stream(prompt, setting(25), seed=seed, stop_ids=STOPS)) == whole.tokens


def test_acceptance_is_counted(network):
    generator = SpeculativeGenerator(*network)
    drawn = answers(generator, rows([6] * 30), setting(20))
    # Without stops each answer is its first token, and one for each step or two where the proposal stood.
    assert generator.proposed + generator.accepted >= sum(len(a.tokens) - 1 for a in drawn)
    assert generator.proposed + generator.accepted <= sum(len(a.tokens) for a in drawn)
    assert 0 < generator.accepted < generator.proposed


def test_refresh_takes_over_the_module_s_weights():
    module, cfg = model(seed=5)
    decoder, text = DraftingDecoder(module, cfg), rows([12])[0]
    with torch.no_grad():
        for parameter in module.mtp.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    decoder.refresh()
    _, cache = decoder.prefill([text[:-1]])
    hidden = cache.hidden.unsqueeze(1).expand(-1, 2, -1)
    drafted = decoder.draft(hidden, torch.tensor([[text[-1], 0]]), torch.ones(1, dtype=torch.long), cache)
    torch.testing.assert_close(drafted[0], mtp_logits(module, text)[-2], rtol=0, atol=1e-4)


def test_the_settings_choose_the_generator_and_need_a_drafter(network):
    assert type(generator_for(*network, SamplingConfig())) is Generator
    assert type(generator_for(*network, SamplingConfig(speculative=True))) is SpeculativeGenerator
    with pytest.raises(ConfigError, match="sampling.speculative=true: .*num_nextn_predict_layers=0"):
        generator_for(*model(num_nextn_predict_layers=0), SamplingConfig(speculative=True))
