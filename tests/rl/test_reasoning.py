"""Reasoning RL as a stage: language is paid, a killed run goes on bit for bit, other stages are refused."""

import pytest

from tests import gloo, stages

NAMES = ("train/loss", "train/grad_norm", "rl/reward/mean", "rl/response_tokens")
SETTINGS = (dict(steps=4, group_size=3, evaluate_every=4), None, None)


def run(base: str, folder: str, die_after: int | None, stage: str) -> str:
    return stages.run_zero(base, folder, die_after, *SETTINGS, stage_name=stage)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 6000, ranks=1)[0]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reasoning")
    gloo.run(run, base, str(folder), None, "reasoning", ranks=1)
    return folder


def test_a_killed_run_goes_on_bit_for_bit(base, whole, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(run, base, str(tmp_path), 3, "reasoning", ranks=1)
    gloo.run(run, base, str(tmp_path), None, "reasoning", ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)


def test_its_checkpoint_does_not_resume_another_stage(base, whole):
    with pytest.raises(RuntimeError, match="belongs to stage reasoning, this is all_scenarios"):
        gloo.run(run, base, str(whole), None, "all_scenarios", ranks=1)


def test_language_is_paid(base, whole, tmp_path):
    gloo.run(run, base, str(tmp_path), None, "zero", ranks=1)  # the same answers in the first step
    paid, plain = (stages.metrics(folder, "rl/reward/mean", "rl/reward/accuracy")[1] for folder in (whole, tmp_path))
    assert paid[0] > plain[0] and paid[1] == plain[1]
