"""DPO as a stage: it learns to prefer, a killed run goes on bit for bit, two ranks do what one does."""

import math

import pytest

from infra.errors import ConfigError
from rl.dpo_config import DPOConfig
from tests import gloo, stages

NAMES = ("train/loss", "train/grad_norm", "dpo/accuracy", "dpo/margin", "dpo/reward_chosen")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 3000, ranks=1)[0]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    gloo.run(stages.run_dpo, base, str(folder), ranks=1)
    return folder


def test_it_begins_at_the_reference_and_learns_to_prefer(whole):
    told = stages.metrics(whole, *NAMES)
    assert told[1][0] == pytest.approx(math.log(2), abs=1e-5) and told[1][3] == pytest.approx(0, abs=1e-4)
    last = told[max(told)]
    assert last[0] < 0.5 and last[2] == 1.0 and last[3] > 0.5
    unseen = stages.metrics(whole, "eval/dpo/loss", "eval/dpo/accuracy")
    assert unseen[0][0] == pytest.approx(math.log(2), abs=1e-5) and unseen[max(told)][0] < 0.65
    assert set(stages.metrics(whole, "eval/countdown/pass_at_1")) == set(unseen) and (whole / "model").is_dir()
    (memory,) = stages.metrics(whole, "memory/policy_gib", "memory/reference_gib", "memory/critic_gib").values()
    assert memory[0] == memory[1] > 0 and memory[2] == 0


def test_a_killed_run_goes_on_with_the_same_losses_bit_for_bit(base, whole, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_dpo, base, str(tmp_path), 5, ranks=1)
    gloo.run(stages.run_dpo, base, str(tmp_path), ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)
    assert len(stages.logged(tmp_path, *NAMES)[5]) == 2


def test_two_ranks_do_what_one_does(base, whole, tmp_path):
    gloo.run(stages.run_dpo, base, str(tmp_path), None, dict(epochs=0.5), ranks=2)
    one, two = (stages.metrics(folder, *NAMES)[1] for folder in (whole, tmp_path))
    assert two == pytest.approx(one, rel=1e-3, abs=1e-4)
    start = [stages.metrics(folder, "eval/dpo/loss", "eval/dpo/accuracy")[0] for folder in (whole, tmp_path)]
    assert start[0] == pytest.approx(start[1])


@pytest.mark.parametrize("wrong", [dict(beta=0), dict(held_out=1.0), dict(nll_coef=-1), dict(pairs_per_step=0)])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"dpo.{next(iter(wrong))}"):
        DPOConfig(**wrong)
