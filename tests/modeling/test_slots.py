"""Rows that join and leave a running batch, against the batch sampler and the full forward."""

import pytest
import torch

from infra.errors import ConfigError
from modeling.draft_slots import slots_for
from modeling.generate import Generator
from modeling.slots import Row, Slots
from modeling.speculate import SpeculativeGenerator
from modeling.thinking import ThinkingBudget
from tests.modeling.test_decode import full_logits, model, rows
from tests.modeling.test_generate import STOPS, setting

PROMPTS = rows([7, 3, 12, 1, 9, 3, 30, 5])
SETTINGS = [
    setting(40, temperature=0.0),
    setting(25),
    setting(33, temperature=0.7),
    setting(1, top_p=0.8),
    setting(30, temperature=1.3, top_p=0.6),
    setting(38, temperature=0.0),
    setting(28),
    setting(35, top_p=0.8),
]


@pytest.fixture(scope="module")
def network():
    return model(initializer_range=0.12)


def asked(i: int, **changes) -> Row:
    settings = dict(prompt=PROMPTS[i], sampling=SETTINGS[i], seed=50 + i, stop_ids=frozenset(STOPS))
    return Row(**settings | changes)


def run(slots: Slots, arrivals: dict[int, list[Row]]) -> None:
    """Rows join before the step of their number, or when there is room; until all are over."""
    waiting: list[Row] = []
    for step in range(500):
        waiting += arrivals.pop(step, [])
        now = waiting[: slots.max_rows - slots.alive]
        waiting = waiting[len(now) :]
        if now:
            slots.admit(now)
        if slots.alive:
            assert all(row.ended for row in slots.step())
        elif not (waiting or arrivals):
            return
    raise AssertionError("rows do not end")


def test_rows_that_join_and_leave_have_the_tokens_of_the_batch_sampler(network) -> None:
    generator = Generator(*network)
    told = [asked(i) for i in range(8)]
    run(Slots(generator, 3), {0: told[:2], 3: told[2:4], 4: told[4:7], 30: told[7:]})
    for i, row in enumerate(told):
        [alone] = generator.generate([PROMPTS[i]], SETTINGS[i], seeds=[50 + i], stop_ids=STOPS)
        assert row.tokens == alone.tokens
        assert row.ended == ("stop" if alone.stopped else "length")
    assert {row.ended for row in told} == {"stop", "length"}


def test_a_drafter_changes_no_greedy_row(network) -> None:
    plain, drafting = Generator(*network), SpeculativeGenerator(*network)
    told = [asked(i, sampling=setting(30, temperature=0.0), top_logprobs=2) for i in range(6)]
    run(slots_for(drafting, 4, None), {0: told[:3], 5: told[3:]})
    answers = plain.generate(PROMPTS[:6], setting(30, temperature=0.0), seeds=[0] * 6, stop_ids=STOPS)
    assert [row.tokens for row in told] == [answer.tokens for answer in answers]
    assert drafting.accepted > 0
    for row in told:
        assert len(row.logprobs) == len(row.tokens)
        assert [one.top[0][0] for one in row.logprobs] == row.tokens


def test_drafted_rows_stop_at_their_limit_with_settings_of_their_own(network) -> None:
    told = [asked(i, stop_ids=frozenset()) for i in range(8)]
    run(slots_for(SpeculativeGenerator(*network), 4, None), {0: told[:5], 7: told[5:]})
    assert [len(row.tokens) for row in told] == [sampling.max_response_tokens for sampling in SETTINGS]
    greedy = Generator(*network).generate([PROMPTS[0]], SETTINGS[0], seeds=[0], stop_ids=set())
    assert told[0].tokens == greedy[0].tokens


def test_logprobs_are_the_full_forwards_whatever_the_temperature(network) -> None:
    row = asked(2, top_logprobs=3, stop_ids=frozenset())
    run(Slots(Generator(*network), 4), {0: [row, asked(1)]})
    logprobs = full_logits(network[0], [*row.prompt, *row.tokens])[len(row.prompt) - 1 : -1].log_softmax(-1)
    for token, told, right in zip(row.tokens, row.logprobs, logprobs, strict=True):
        assert told.value == pytest.approx(right[token].item(), abs=1e-4)
        values, ids = right.topk(3)
        assert [token for token, _ in told.top] == ids.tolist()
        assert [value for _, value in told.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", [Generator, SpeculativeGenerator])
def test_thinking_is_closed_by_force_and_the_row_goes_on_from_there(network, kind) -> None:
    pieces = ["x"] * 96
    budget = ThinkingBudget(6, opened=True, pieces=pieces, closing=[9, 8, 7])
    row = asked(0, budget=budget, stop_ids=frozenset(), top_logprobs=0)
    other = asked(6)
    run(slots_for(kind(*network), 4, None), {0: [row], 2: [other]})
    free = Generator(*network).generate([PROMPTS[0]], SETTINGS[0], seeds=[0], stop_ids=set())[0].tokens
    assert row.tokens[:6] == free[:6] and row.tokens[6:9] == [9, 8, 7]
    rest = Generator(*network).generate(
        [PROMPTS[0] + row.tokens[:9]], setting(31, temperature=0.0), seeds=[0], stop_ids=set()
    )
    assert row.tokens[9:] == rest[0].tokens
    right = full_logits(network[0], [*row.prompt, *row.tokens])[len(row.prompt) - 1 : -1].log_softmax(-1)
    assert [one.value for one in row.logprobs] == pytest.approx(
        right.gather(1, torch.tensor(row.tokens).unsqueeze(1)).squeeze(1).tolist(), abs=1e-4
    )


def test_a_removed_row_frees_its_slot_for_the_next(network) -> None:
    generator = Generator(*network)
    slots = Slots(generator, 2)
    first, second, third = asked(0, stop_ids=frozenset()), asked(5, stop_ids=frozenset()), asked(1)
    slots.admit([first, second])
    with pytest.raises(ConfigError, match="slots are free"):
        slots.admit([third])
    for _ in range(4):
        slots.step()
    slots.remove([first])
    assert slots.alive == 1
    slots.admit([third])
    while slots.alive:
        slots.step()
    assert len(first.tokens) == 5 and not first.ended
    answers = generator.generate([PROMPTS[5]], SETTINGS[5], seeds=[0], stop_ids=set())
    assert second.tokens == answers[0].tokens
    assert third.tokens == generator.generate([PROMPTS[1]], SETTINGS[1], seeds=[51], stop_ids=STOPS)[0].tokens


@pytest.mark.parametrize(
    ("said", "budget", "opened", "forced_after"),
    [
        (["<think>", "a", "b", "c", "d"], 2, False, 3),
        (["a", "b", "c", "d"], 2, True, 2),
        (["<think>", "a", "</think>", "b", "c"], 2, False, None),
        (["a", "b", "c", "d"], 2, False, None),
        (["<", "think", ">", "a"], 0, False, 3),
        (["<think>", "a", "</th", "ink>", "b"], 3, False, None),
    ],
)
def test_a_budget_counts_tokens_inside_the_thinking(said, budget, opened, forced_after) -> None:
    watch = ThinkingBudget(budget, opened=opened, pieces=said, closing=[77])
    told = [watch.at_first(), *(watch.after(token) for token in range(len(said)))]
    assert [i for i, forced in enumerate(told) if forced] == ([] if forced_after is None else [forced_after])
