"""Supervised fine-tuning as a whole: it learns the responses, rows and ranks change nothing, a kill costs nothing."""

import random

import pytest

from infra.errors import ConfigError
from tests import gloo, stages
from training import distill
from training.config import Rows, SFTConfig
from training.data import chat
from training.data.corpus import CorpusConfig, solved
from training.data.countdown import orders, question_text, reachable

NAMES = ("train/loss", "train/grad_norm", "train/lr")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 3000, ranks=1)[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng, rows = random.Random(0), []
    for numbers in rng.sample(orders(held=False), 24):
        target = rng.choice(reachable(numbers))
        thinking, answer = solved(CorpusConfig(), rng, numbers, target)
        prompt = f"User: {question_text(numbers, target)}\nAssistant:"
        rows.append({"prompt": prompt, "response": f"<think>\n{thinking}</think>\n<answer>{answer}</answer>"})
    return str(chat.write(tmp_path_factory.mktemp("data") / "set.parquet", rows))


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    gloo.run(stages.run_sft, base, str(folder), data, ranks=1)
    return folder


def test_two_epochs_lower_the_loss_and_leave_a_model(whole):
    losses = stages.metrics(whole, "train/loss")
    assert sorted(losses) == list(range(1, 13))  # 24 less two to measure on: six steps an epoch
    assert losses[12][0] < losses[1][0]
    unseen = stages.metrics(whole, "eval/loss")
    assert sorted(unseen) == [0, 3, 6, 9, 12] and unseen[12][0] < unseen[0][0]
    assert (whole / "model" / "config.json").exists() and (whole / "model" / "tokenizer.json").exists()


def test_a_killed_run_goes_on_as_if_it_had_not_been(base, data, whole, tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(stages.run_sft, base, str(tmp_path), data, 7, ranks=1)
    gloo.run(stages.run_sft, base, str(tmp_path), data, ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)


def test_rows_and_ranks_change_no_loss(base, data, whole, tmp_path):
    gloo.run(stages.run_sft, base, str(tmp_path), data, None, {"rows": Rows.by_length, "epochs": 1}, ranks=2)
    packed, by_length = (stages.metrics(folder, "train/loss", "train/grad_norm") for folder in (whole, tmp_path))
    assert by_length[1] == pytest.approx(packed[1], rel=1e-3)


def test_distilling_from_a_set_without_thinking_is_refused(tmp_path):
    path = chat.write(tmp_path / "set.parquet", [{"prompt": "a", "response": "<answer>1</answer>"}])
    with pytest.raises(ConfigError, match="none of its responses thinks"):
        distill.run(tmp_path, path, cfg=SFTConfig())
