"""Pre-training as a whole: it learns, two ranks learn the same, and a killed run goes on bit for bit."""

import pytest

from modeling import hf
from modeling.tokenizer import Tokenizer
from tests import gloo, stages


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    gloo.run(stages.run_pretrain, str(folder), ranks=1)
    return folder


def test_loss_falls_and_the_base_is_a_hugging_face_folder(whole):
    losses = stages.metrics(whole, "train/loss")
    assert losses[max(losses)][0] < 0.9 * losses[1][0]
    held_out = stages.metrics(whole, "eval/loss")
    assert held_out[max(held_out)][0] < held_out[0][0]
    assert hf.config_from(whole / "model").vocab_size == 320 and Tokenizer.load(whole / "model").num_tokens == 300


def test_two_ranks_learn_what_one_does(whole, tmp_path):
    gloo.run(stages.run_pretrain, str(tmp_path), ranks=2)
    one, two = (stages.metrics(folder, "train/loss", "train/grad_norm") for folder in (whole, tmp_path))
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=2e-2 if step > 3 else 1e-3)
    assert stages.metrics(tmp_path, "eval/loss")[0] == pytest.approx(stages.metrics(whole, "eval/loss")[0], rel=1e-4)


@pytest.mark.parametrize("die_after", [1, 3])
def test_a_killed_run_goes_on_with_the_same_losses_bit_for_bit(whole, tmp_path, die_after):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_pretrain, str(tmp_path), die_after, ranks=1)
    gloo.run(stages.run_pretrain, str(tmp_path), ranks=1)
    names = ("train/loss", "train/grad_norm", "train/lr")
    assert stages.metrics(tmp_path, *names) == stages.metrics(whole, *names)
