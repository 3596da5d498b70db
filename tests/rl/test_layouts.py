"""R1-Zero with the network split over ranks does what one rank does: the same answers, updates and reference."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modeling.tokenizer import Tokenizer
from rl.objective_config import ObjectiveConfig, ObjectiveName
from tests import gloo, stages
from tests.training import tiny
from training import checkpoint
from training.config import OptimizerConfig

NAMES = ("train/loss", "train/grad_norm", "rl/kl", "rl/reward/mean", "rl/response_tokens", "rl/sampler_trainer_diff")
# One step of two updates, and a reference left behind: with a large eps AdamW moves by the gradient, not by its sign.
ONE = {"steps": 1, "minibatches": 2, "optimizer": OptimizerConfig(lr=0.02, eps=0.01)}
MODEL = {"max_position_embeddings": 1024, "vocab_size": 320}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of one rank: its checkpoint is a plain one."""
    folder = tmp_path_factory.mktemp("base")
    gloo.run(stages.run_pretrain, str(folder), None, 6000, ranks=1)
    return folder


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    gloo.run(stages.run_zero, str(base), str(folder), None, ONE, ranks=1)
    return folder


def _answers(folder: Path) -> list[str]:
    return json.loads((folder / "metrics_0.samples").read_text().splitlines()[0])["texts"]


def _weights(folder: Path) -> tuple[dict, dict]:
    """Policy and reference of the newest checkpoint, as one rank reads them."""

    class Data:
        def load_state_dict(self, state: dict) -> None:
            self.reference = state["reference"]

    state = tiny.state(3, model=MODEL, stage="zero", data=Data())
    checkpoint.load_latest(state, folder)
    return tiny.weights(state), state.data.reference


@pytest.mark.parametrize(
    ("layout", "ranks", "start"),
    [
        ({"tensor": 2}, 2, "."),
        ({"pipeline": 2}, 2, "model"),
        ({"expert": 2}, 2, "model"),
        ({"context": 2}, 2, "."),
        ({"tensor": 2, "pipeline": 2}, 4, "."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_ranks_with_parts_answer_and_learn_as_one(layout, ranks, start, base, alone, tmp_path):
    """start: the base's checkpoint, which one rank wrote, or its Hugging Face folder."""
    (out, *_) = gloo.run(stages.run_zero, str(base / start), str(tmp_path), None, ONE, layout, ranks=ranks)
    assert _answers(tmp_path) == _answers(alone)
    one, two = (stages.metrics(folder, *NAMES)[1] for folder in (alone, tmp_path))
    assert (
        two[:5] == pytest.approx(one[:5], rel=1e-4, abs=1e-9) and two[5] < 1e-4
    )  # sampler and trainer differ by rounding
    assert stages.metrics(tmp_path, "eval/format_rate")[0] == stages.metrics(alone, "eval/format_rate")[0]
    (policy, reference), (policy_alone, reference_alone) = _weights(tmp_path), _weights(alone)
    tiny.close(policy, policy_alone, 1e-4)
    tiny.close(reference, reference_alone, 0)
    exported, exported_alone = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, alone))
    assert out == str(tmp_path / "model") and Tokenizer.load(out).num_tokens == 300
    tiny.close(exported, exported_alone, 1e-4)
    assert any((policy[name] - reference[name]).abs().max() > 0 for name in reference if name in policy)


CONTEXT = {"context": 2}
WHOLE_ANSWERS = ("rloo", "reinforce", "mirror_descent")
LOSS = ("train/loss", "train/grad_norm")
SPLIT = {  # stage -> the metrics that have to agree
    "rloo": (*LOSS, "rl/ratio", "rl/clip_frac", "rl/kl"),
    "reinforce": (*LOSS, "rl/kl"),
    "mirror_descent": (*LOSS, "rl/log_ratio", "rl/squared_log_ratio"),
    "dpo": (*LOSS, "dpo/margin", "dpo/reward_chosen", "dpo/reward_rejected"),
}


def _objectives(base: str, folder: str, layout: dict[str, int]) -> None:
    """A step of two updates by each objective that sums over whole answers, and two steps of DPO."""
    for name in WHOLE_ANSWERS:
        kl = 0.0 if name == "mirror_descent" else 0.01
        objective = ObjectiveConfig(name=ObjectiveName[name], kl_coef=kl)
        stages.run_zero(base, f"{folder}/{name}", None, ONE | {"objective": objective}, layout)
    own = {"epochs": 0.5, "held_out": 0.1, "optimizer": ONE["optimizer"]}
    stages.run_dpo(base, f"{folder}/dpo", None, own, layout, pairs=16)


def test_sums_over_answers_are_whole_where_context_ranks_share_each_row(base, tmp_path):
    start, folders = str(base / "model"), (tmp_path / "one", tmp_path / "two")
    gloo.run(_objectives, start, str(folders[0]), {}, ranks=1)
    gloo.run(_objectives, start, str(folders[1]), CONTEXT, ranks=2)
    for name, metrics in SPLIT.items():
        one, two = (stages.metrics(folder / name, *metrics) for folder in folders)
        assert one.keys() == two.keys() and any(one[1])
        for step in one:
            assert two[step] == pytest.approx(one[step], rel=1e-3, abs=1e-5), (name, step)
        models = (load_file(folder / name / "model" / "model.safetensors") for folder in folders)
        tiny.close(*models, 1e-3)
    told = [stages.metrics(folder / "dpo", "eval/dpo/loss", "eval/dpo/accuracy") for folder in folders]
    assert told[1] == {step: pytest.approx(values, rel=1e-3) for step, values in told[0].items()}
