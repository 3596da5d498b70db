"""Measures of mismatch by hand and against random draws; warnings that come once, and only where they are news."""

import math

import numpy as np
import pytest
import torch

from rl.alarms import ALARMS, Alarm, Watch
from rl.config import EngineName, Placement, RLConfig, RolloutConfig
from rl.metrics import surprisal
from rl.mismatch import mismatch_metrics
from rl.types import Completion
from tests.rl.rows import rows


def test_mismatch_of_two_tokens_by_hand() -> None:
    batch = rows(torch.tensor([[0.5, 0.5, 0.0]]), sampler_logprobs=torch.tensor([[0.5, 0.1, 0.9]]).log())
    found = mismatch_metrics(batch, torch.tensor([[0.5, 0.5, 0.1]]).log())
    assert found["rl/sampler_trainer_diff"].item() == pytest.approx(math.log(5) / 2)
    assert found["rl/sampler_trainer_kl"].item() == pytest.approx((math.e - 2) / 2)  # log 5 is bounded at 1
    assert found["rl/sampler_trainer_far_frac"].item() == 0.5


def test_the_kl_of_mismatch_is_that_between_the_two_distributions() -> None:
    """Weights as a sampler would draw the tokens: the mean of k3 is then the sum over p of p log(p / q)."""
    sampler, trainer = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.4, 0.2]])
    batch = rows(sampler.double(), sampler_logprobs=sampler.double().log())
    found = mismatch_metrics(batch, trainer.double().log())["rl/sampler_trainer_kl"].item()
    assert found == pytest.approx((sampler * (sampler / trainer).log()).sum().item(), rel=1e-5)


def answer(logprobs: np.ndarray, entropies: np.ndarray) -> Completion:
    return Completion([0] * len(logprobs), "", logprobs.tolist(), entropies.tolist(), stopped=True)


def drawn(rng: np.random.Generator, tokens: int, temperature: float) -> Completion:
    """Tokens drawn at a temperature from random distributions over 20, told as those of temperature 1."""
    logits = 2 * rng.standard_normal((tokens, 20))
    told = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    real = told ** (1 / temperature)
    real /= real.sum(1, keepdims=True)
    token = (real.cumsum(1) < rng.random((tokens, 1))).sum(1)
    return answer(np.log(told[np.arange(tokens), token]), -(told * np.log(told)).sum(1))


def test_surprise_has_deviation_one_where_the_tokens_are_what_they_are_said_to_be() -> None:
    rng = np.random.default_rng(0)
    z = [surprisal([drawn(rng, 200, 1.0)])["rl/surprisal_z"] for _ in range(400)]
    assert abs(np.mean(z)) < 0.2 and 0.85 < np.std(z) < 1.15 and max(map(abs, z)) < 5


def test_a_hidden_temperature_shows_in_the_surprise_and_its_direction() -> None:
    rng = np.random.default_rng(0)
    colder, hotter = (surprisal([drawn(rng, 2000, t)]) for t in (0.7, 1.4))
    assert colder["rl/surprisal_z"] < -5 and colder["rl/surprisal_gap"] < 0 < hotter["rl/surprisal_gap"]


def test_no_surprise_is_told_without_entropies_or_of_greedy_answers() -> None:
    untold = Completion([1, 2], "", [-0.1, -0.2], [], stopped=True)
    assert surprisal([untold]) == {} == surprisal([answer(np.zeros(3), np.zeros(3))])


def test_pooled_scores_grow_with_the_root_of_the_steps() -> None:
    alarm = Alarm(name="z", metric="z", level=5, cause="", remedy="", pooled=True)
    assert alarm.sizes([2, 2, -1]) == pytest.approx([2, 4 / math.sqrt(2), 3 / math.sqrt(3)])
    assert [size > alarm.level for size in alarm.sizes([2.0] * 7)] == [False] * 6 + [True]


def test_an_alarm_is_told_once_with_metric_value_level_cause_and_remedy() -> None:
    watch = Watch(RLConfig(), full_precision=False)
    diff = next(alarm for alarm in ALARMS if alarm.name == "apart")
    assert watch.lines({diff.metric: diff.level / 2}, step=1) == []
    (line,) = watch.lines({diff.metric: 3 * diff.level}, step=2)
    assert all(part in line for part in ("step 2", diff.metric, f"{3 * diff.level:.3g}", diff.cause, diff.remedy))
    assert watch.lines({diff.metric: 3 * diff.level}, step=3) == []


def test_a_difference_that_is_weighed_away_is_no_news() -> None:
    far = {"rl/sampler_trainer_diff": 1.0, "rl/sampler_trainer_far_frac": 1.0}
    assert len(Watch(RLConfig(), full_precision=False).lines(far, 1)) == 2
    corrected = Watch(RLConfig(importance_cap=2.0), full_precision=False)
    assert [line for line in corrected.lines(far, 1) if "_diff" in line] == []
    assert len(corrected.lines({"rl/importance_capped_frac": 0.9}, 2)) == 1


def test_a_sampler_that_is_to_be_the_trainer_itself_is_held_to_rounding() -> None:
    rounding_of_bf16 = {"rl/sampler_trainer_diff": 3e-3}
    separate = RolloutConfig(placement=Placement.separate, one_step_off=True)
    for cfg, full, told in (
        (RLConfig(), True, 1),
        (RLConfig(), False, 0),
        (RLConfig(rollout=RolloutConfig(partial_tokens=8)), True, 0),
        (RLConfig(rollout=separate), True, 0),
        (RLConfig(rollout=RolloutConfig(engine=EngineName.vllm)), True, 0),
    ):
        assert len(Watch(cfg, full_precision=full).lines(rounding_of_bf16, 1)) == told
    assert Watch(RLConfig(), full_precision=True).lines({"rl/sampler_trainer_diff": 4e-5}, 1) == []
