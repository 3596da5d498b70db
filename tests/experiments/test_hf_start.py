"""mini-R1 on CPU: a random Qwen-shaped checkpoint with its own tokenizer through every command, by settings alone."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import chat, stages
from experiments.config import compose
from infra.errors import ConfigError
from modeling import hf
from modeling.config import Family
from modeling.tokenizer import Tokenizer
from rl.tasks.base import CHAT_TEMPLATE, R1_ZERO_TEMPLATE
from tests import gloo
from tests.modeling.families import qwen_folder

SMALL = [
    "scale=tiny", "rl.steps=2", "rl.questions_per_step=2", "rl.group_size=4", "rl.evaluate_every=2", "rl.save_every=1",
    "rl.rollout_rows=8", "evaluate.curve_questions=2", "evaluate.curve_samples=2", "evaluate.questions=3",
    "evaluate.samples=2", "sampling.max_response_tokens=24", "tracking.uri=", "rl.sample_groups=2",
    "rl.optimizer.lr=1e-3", "rl.drop_zero_variance=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "Qwen-tiny"
    qwen_folder(folder, max_position_embeddings=2048)
    return folder


def _zero(given: list[str]) -> None:
    from rl.rewards import base

    base.format_ok = lambda text, **kwargs: text.count("e") > 1  # a random model never meets the real rule
    stages.zero(compose("zero", given))


def _evaluate(given: list[str]) -> None:
    stages.evaluate(compose("evaluate", given))


def _pretrain(given: list[str]) -> None:
    stages.pretrain(compose("pretrain", given))


@pytest.fixture(scope="module")
def run(qwen, tmp_path_factory) -> Path:
    """mini-R1's own settings, but for sizes."""
    folder = tmp_path_factory.mktemp("mini_r1")
    gloo.run(_zero, ["experiment=mini_r1", f"model=hf:{qwen}", f"run.dir={folder}", *SMALL], ranks=1)
    return folder


def test_mini_r1_trains_a_qwen_and_keeps_what_is_its_own(qwen, run):
    samples = pd.concat(pd.read_parquet(path) for path in sorted((run / "samples").rglob("*.parquet")))
    prompt = samples.prompt.iloc[0]
    before, after = CHAT_TEMPLATE.split("{question}")
    assert prompt.startswith("<|im_start|>user\nMake ") and prompt.endswith(
        f"{after}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "exactly once" in prompt and before == ""
    cfg = hf.config_from(run / "model")
    assert cfg == hf.config_from(qwen) and cfg.family is Family.qwen2 and cfg.tie_word_embeddings
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (run / "model" / name).read_text() == (qwen / name).read_text()
    old, new = ({n: t for t, n in _tensors(folder)} for folder in (qwen, run / "model"))
    assert old.keys() == new.keys() and any(not torch.equal(old[n], new[n]) for n in old)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [row["metrics"] for row in rows if "train/grad_norm" in row["metrics"]]
    assert len(trained) == 2 and all(row["train/grad_norm"] > 0 for row in trained)
    # Sampler and trainer are two programs over the same weights, the dense families' included.
    assert all(row["rl/sampler_trainer_diff"] < 1e-4 for row in trained)


def _tensors(folder: Path):
    from safetensors.torch import load_file

    return ((tensor, name) for name, tensor in load_file(folder / hf.WEIGHTS).items())


def test_evaluate_and_generate_take_such_a_model(qwen, run, tmp_path, capsys, monkeypatch):
    gloo.run(_evaluate, [f"model=hf:{run / 'model'}", f"run.dir={tmp_path}", "task.template=r1_zero", *SMALL], ranks=1)
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores["questions"] == 3 and 0 < scores["response_tokens"] <= 24
    prompt = pd.read_parquet(tmp_path / "answers.parquet").prompt.iloc[0]
    assert prompt.startswith(R1_ZERO_TEMPLATE.split("{question}")[0])
    given = [f"model=hf:{qwen}", "generate.prompt=Make 18 from 3, 5, 8.", "sampling.max_response_tokens=8"]
    chat.run(compose("generate", given))
    out, _ = capsys.readouterr()
    assert out.strip()


def test_pretraining_goes_on_from_such_a_model_with_its_tokenizer(qwen, tmp_path):
    given = ["pretrain.tokens=1500", "pretrain.batch_tokens=500", "tracking.uri="]
    given += ["pretrain.evaluate_documents=4", "pretrain.optimizer.lr=1e-3", "scale=tiny", "pretrain.evaluate_every=2"]
    gloo.run(_pretrain, [f"model=hf:{qwen}", f"run.dir={tmp_path / 'run'}", *given], ranks=1)
    assert hf.config_from(tmp_path / "run" / "model") == hf.config_from(qwen)
    assert Tokenizer.load(tmp_path / "run" / "model").stop_ids == Tokenizer.load(qwen).stop_ids
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["metrics"]["eval/loss"] for row in rows if "eval/loss" in row["metrics"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("command", "given", "parts"),
    [
        ("zero", "model=hf:nowhere", ["model=nowhere: is not there", "owner/name"]),
        ("zero", "model=hf:{qwen} rl.checkpoint=experiments/base", ["rl.checkpoint=experiments/base is another start"]),
        ("sync", "model=hf:{qwen}", ["r1 sync starts from no model"]),
        ("zero", "model=hf:{qwen} model.hidden_size=64", ["model.hidden_size=64", "has 32"]),
        ("zero", "model=hf:{qwen} parallel.expert=2", ["parallel.expert=2: qwen2 has no experts"]),
        ("import", "out=x", ["hf=: is not given"]),
        ("export", "checkpoint=x", ["out=: is not given"]),
        ("import", "hf=x out=y shard_gib=0", ["convert.shard_gib=0"]),
        ("import", "hf=x out=y dtype=int4", ["convert.dtype=int4", "kept, bf16, fp32"]),
        ("import", "hf=x out=y fp9=true", ["fp9=true: there is no such setting"]),
    ],
)
def test_bad_starts_are_refused_in_one_line(command, given, parts, qwen):
    with pytest.raises(ConfigError) as refused:
        compose(command, given.format(qwen=qwen).split())
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_chat_template_that_is_not_there_cannot_be_asked_for(tmp_path):
    from rl.tasks.base import Template, prompter

    qwen_folder(tmp_path, chat=False)
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(ConfigError, match="task.template=chat: .* no chat template; set r1_zero"):
        prompter(Template.chat, tokenizer)
    assert prompter(Template.auto, tokenizer).prompt("1+1?") == R1_ZERO_TEMPLATE.replace("{question}", "1+1?")
