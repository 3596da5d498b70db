"""`r1 long2short`: each method on the released base, through the settings of the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments import long2short
from experiments.config import compose
from infra.errors import ConfigError
from modeling import hf
from tests import gloo

BASE = str(Path(long2short.__file__).parent / "base")
SMALL = ["tracking.uri=", "questions=6", "samples=6", "sampling.max_response_tokens=200"]
RL = [
    "rl.steps=2", "rl.questions_per_step=4", "rl.group_size=8", "evaluate.curve_questions=0", "rl.sample_groups=4",
    "response_tokens=64",
]  # fmt: skip


def _run(given: list[str]) -> None:
    long2short.run(compose("long2short", [f"checkpoint={BASE}", *SMALL, *given]))


def test_a_model_merged_with_itself_is_itself(tmp_path):
    gloo.run(_run, [f"short={BASE}", f"run.dir={tmp_path}"], ranks=1)
    assert (tmp_path / "model" / "model.safetensors").stat().st_size == Path(BASE, "model.safetensors").stat().st_size
    assert hf.config_from(tmp_path / "model") == hf.config_from(BASE)


def test_pairs_come_from_the_models_own_answers(tmp_path):
    gloo.run(_run, ["method=dpo", f"run.dir={tmp_path}"], ranks=1)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert pairs and all(set(pair) == {"prompt", "chosen", "rejected"} for pair in pairs)
    assert all("<answer>" in pair["chosen"] and pair["chosen"] != pair["rejected"] for pair in pairs)
    assert json.loads((tmp_path / "long2short.json").read_text())["questions"] == 6


def test_rl_pays_for_length_and_cuts_earlier(tmp_path):
    gloo.run(_run, ["method=rl", f"run.dir={tmp_path}", *RL], ranks=1)
    samples = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "samples").rglob("*.parquet")))
    assert samples.response_tokens.max() == 64 and len(samples) == 64
    assert samples.reward_length.min() == -0.5 and samples.reward_length.max() <= 0.5
    expected = samples.reward_accuracy + 0.1 * samples.reward_format + 0.5 * samples.reward_length
    assert samples.reward.tolist() == pytest.approx(expected.tolist())
    assert (tmp_path / "model" / "config.json").exists()


def test_what_is_missing_is_said_before_any_work():
    with pytest.raises(ConfigError, match="long2short.checkpoint"):
        compose("long2short", ["method=dpo"])
    with pytest.raises(ConfigError, match="long2short.short"):
        compose("long2short", [f"checkpoint={BASE}"])
    with pytest.raises(ConfigError, match="long2short.response_tokens=300"):
        compose("long2short", [f"checkpoint={BASE}", "method=rl", "response_tokens=300"])
