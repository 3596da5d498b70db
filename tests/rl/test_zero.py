"""R1-Zero as a whole: sampler and trainer agree, two ranks do what one does, a killed run goes on bit for bit."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeling.config import Fp8
from rl.config import Placement, QuestionOrder, QuestionsConfig, RolloutConfig
from tests import gloo, stages

NAMES = ("train/loss", "train/grad_norm", "rl/kl", "rl/reward/mean", "rl/response_tokens", "rl/sampler_trainer_diff")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 6000, ranks=1)[0]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    gloo.run(stages.run_zero, base, str(folder), ranks=1)
    return folder


def test_sampler_and_trainer_give_the_same_logprobs(whole):
    differences = stages.metrics(whole, "rl/sampler_trainer_diff")
    assert len(differences) == 6 and max(d[0] for d in differences.values()) < 1e-4


def test_a_policy_trained_in_fp8_drifts_from_its_sampler_by_what_fp8_rounds(base, tmp_path):
    gloo.run(stages.run_zero, base, str(tmp_path), None, {"steps": 2}, None, None, Fp8.emulated, ranks=1)
    differences = [d[0] for d in stages.metrics(tmp_path, "rl/sampler_trainer_diff").values()]
    assert len(differences) == 2 and all(1e-3 < d < 0.2 for d in differences)
    assert (tmp_path / "model" / "config.json").exists()


def test_the_reference_is_left_behind_and_refreshed(whole):
    kl = stages.metrics(whole, "rl/kl")
    # Steps are counted after they are done: 1 and 4 start at the reference, so only their second update has moved.
    assert kl[3][0] > kl[1][0] > 0 and kl[4][0] < kl[3][0]


def test_curve_and_samples_are_kept(whole):
    answers = pd.read_parquet(whole / "evaluations" / "step_000003.parquet")
    assert len(answers) == 8 and answers.question_id.nunique() == 4
    assert (answers.response_tokens == answers.tokens.map(len)).all()
    assert set(stages.metrics(whole, "eval/countdown/pass_at_1")) == {0, 3, 6}


def test_samples_hold_what_sampler_and_trainer_thought_of_each_token(whole):
    rows = [json.loads(line) for line in (whole / "metrics_0.rows").read_text().splitlines()]
    assert all(len(row["entropies"]) == row["response_tokens"] for row in rows)
    known = [row for row in rows if row["trainer_logprobs"]]
    assert known and all(len(row["trainer_logprobs"]) == row["response_tokens"] for row in known)
    pairs = [(np.array(row["trainer_logprobs"]), np.array(row["sampler_logprobs"])) for row in known]
    assert max(np.abs(trainer - sampler).max() for trainer, sampler in pairs) < 1e-3


def test_load_of_experts_is_kept_and_agrees_with_maxvio(whole):
    lines = [json.loads(line) for line in (whole / "experts.jsonl").read_text().splitlines() if line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for layer in (layer for line in lines for layer in line["layers"]):
        assert np.mean(layer["load"]) == pytest.approx(1, abs=1e-3) and len(layer["bias"]) == len(layer["load"])
    first = np.mean([max(layer["load"]) - 1 for layer in lines[0]["layers"]])
    updates = stages.metrics(whole, "moe/maxvio")[1][0]
    assert 0 < first <= 1.1 * updates  # the step's updates together are about as even as each, or more


def test_two_ranks_sample_and_learn_what_one_does(base, whole, tmp_path):
    gloo.run(stages.run_zero, base, str(tmp_path), ranks=2)
    one, two = ([json.loads(line) for line in _samples(folder)] for folder in (whole, tmp_path))
    assert one[0] == two[0]  # before any update the answers are the same text
    assert stages.metrics(tmp_path, *NAMES)[1][:5] == pytest.approx(stages.metrics(whole, *NAMES)[1][:5], rel=1e-3)


def _samples(folder: Path) -> list[str]:
    return (folder / "metrics_0.samples").read_text().splitlines()


@pytest.mark.parametrize("die_after", [3])
def test_a_killed_run_goes_on_with_the_same_losses_bit_for_bit(base, whole, tmp_path, die_after):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path), die_after, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path), ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)
    assert _samples(tmp_path)[-1] == _samples(whole)[-1]


SEPARATE = dict(rollout=RolloutConfig(placement=Placement.separate))
ONE_STEP_OFF = dict(rollout=RolloutConfig(placement=Placement.separate, one_step_off=True), importance_cap=2.0)


def test_a_sampler_with_weights_of_its_own_learns_the_same_bit_for_bit(base, whole, tmp_path):
    gloo.run(stages.run_zero, base, str(tmp_path), None, SEPARATE, ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)
    assert _samples(tmp_path) == _samples(whole)
    assert all(value == [0.0] for value in stages.metrics(tmp_path, "rl/staleness").values())


@pytest.fixture(scope="module")
def one_step_off(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_step_off")
    gloo.run(stages.run_zero, base, str(folder), None, ONE_STEP_OFF, ranks=1)
    return folder


def test_answers_of_the_step_before_are_one_step_old_and_weighed(whole, one_step_off):
    staleness = stages.metrics(one_step_off, "rl/staleness")
    assert [staleness[step] for step in range(1, 7)] == [[0.0]] + [[2.0]] * 5  # two updates a step
    told = stages.metrics(one_step_off, "rl/sampler_trainer_diff", "rl/importance", "rl/importance_capped_frac")
    assert told[1][0] < 1e-4 and told[1][1] == pytest.approx(1, abs=1e-4)
    assert all(told[step][0] > 1e-3 and 0 <= told[step][2] < 0.5 for step in range(2, 7))
    # The first two steps' answers are those of the base, asked as it is asked without being ahead.
    asked, ahead = _samples(whole), _samples(one_step_off)
    assert ahead[0] == asked[0] and ahead[1] != asked[1]


def test_one_step_off_a_killed_run_goes_on_with_the_answers_under_way(base, one_step_off, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path), 3, ONE_STEP_OFF, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path), None, ONE_STEP_OFF, ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(one_step_off, *NAMES)
    assert _samples(tmp_path)[-1] == _samples(one_step_off)[-1]


def test_one_step_off_two_ranks_sample_what_one_does(base, one_step_off, tmp_path):
    two_steps = ONE_STEP_OFF | dict(steps=2)
    gloo.run(stages.run_zero, base, str(tmp_path), None, two_steps, ranks=2)
    assert _samples(tmp_path)[:2] == _samples(one_step_off)[:2]  # both of the base's weights


def test_drafts_by_mtp_are_counted_in_the_metrics_and_nothing_else_is_off(base, tmp_path):
    gloo.run(stages.run_zero, base, str(tmp_path), None, dict(steps=2), None, dict(speculative=True), ranks=1)
    told = stages.metrics(tmp_path, "mtp/rollout_acceptance", "rl/sampler_trainer_diff")
    assert all(0 <= acceptance <= 1 and difference < 1e-4 for acceptance, difference in told.values())


PARTIAL = dict(
    questions_per_step=8,
    group_size=2,
    rollout=RolloutConfig(partial_tokens=8, repeat_ngram=1, repeat_times=3),
    questions=QuestionsConfig(order=QuestionOrder.prioritised, pool=16),
    importance_cap=2.0,
)


@pytest.fixture(scope="module")
def partial(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    gloo.run(stages.run_zero, base, str(folder), None, PARTIAL, ranks=1)
    return folder


def test_partial_rollouts_carry_answers_over_and_train_on_what_ended(partial):
    told = stages.metrics(partial, "rl/partial_groups", "rl/partial_unfinished", "rl/partial_carried_frac")
    assert len(told) == 6 and all(groups >= 1 for groups, _, _ in told.values())
    assert sum(unfinished for _, unfinished, _ in told.values()) > 0
    assert any(carried > 0 for *_, carried in told.values())
    assert any(len(row["texts"]) != 16 for row in map(json.loads, _samples(partial)))  # not a step's 8 x 2


def test_with_partial_rollouts_a_killed_run_goes_on_bit_for_bit(base, partial, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_zero, base, str(tmp_path), 3, PARTIAL, ranks=1)
    gloo.run(stages.run_zero, base, str(tmp_path), None, PARTIAL, ranks=1)
    names = (*NAMES, "rl/partial_unfinished", "rl/repetition_frac")
    assert stages.metrics(tmp_path, *names) == stages.metrics(partial, *names)
    assert _samples(tmp_path)[-1] == _samples(partial)[-1]


def test_with_partial_rollouts_two_ranks_do_what_one_does(base, partial, tmp_path):
    settings = PARTIAL | dict(steps=3)
    gloo.run(stages.run_zero, base, str(tmp_path), None, settings, ranks=2)
    assert _samples(tmp_path)[0] == _samples(partial)[0]
    names = ("train/loss", "rl/response_tokens", "rl/partial_unfinished")
    assert stages.metrics(tmp_path, *names)[1] == pytest.approx(stages.metrics(partial, *names)[1], rel=1e-3)
