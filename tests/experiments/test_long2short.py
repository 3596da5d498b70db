"""`r1 long2short`: each method gives a model with its lineage, from the released base, by settings as typed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments import lineage, long2short
from experiments.config import compose
from infra.errors import ConfigError
from modeling import hf
from tests import gloo

BASE = str(Path(long2short.__file__).parent / "base")
SMALL = ["tracking.uri=", "questions=6", "samples=6", "sampling.max_response_tokens=200", "evaluate.curve_questions=0"]
METHODS = {
    "merge": [f"short={BASE}"],
    "rejection": ["sft.batch_size=2", "sft.epochs=1", "evaluate.questions=8"],
    "dpo": ["dpo.held_out=0", "dpo.pairs_per_step=8"],
    "rl": ["rl.steps=2", "rl.questions_per_step=4", "rl.group_size=8", "rl.sample_groups=4", "response_tokens=64"],
}


def _run(folder: str, *methods: str) -> None:
    for method in methods:
        given = [f"checkpoint={BASE}", f"method={method}", f"run.dir={folder}/{method}", *SMALL, *METHODS[method]]
        long2short.run(compose("long2short", given))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long2short")
    gloo.run(_run, str(folder), *METHODS, ranks=1)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_a_model_that_knows_where_it_comes_from(runs, method):
    model, base = runs / method / "model", lineage.of(Path(BASE))
    assert hf.config_from(model) == hf.config_from(BASE)
    origin = lineage.of(model)
    assert (origin.stage, origin.parents[0].id) == ("long2short", base.id) and origin.commit
    assert lineage.read(runs / method) is not None
    told = json.loads((runs / method / "run.json").read_text())  # what MLflow is given
    assert told["tags"]["lineage"] == origin.id and told["status"] == "FINISHED"
    assert (
        told["tags"]["parents"].startswith(f"pretrain {base.id} ") and told["config"]["long2short"]["method"] == method
    )
    shown = lineage.tree(origin)
    assert shown.count("pretrain") == {"rl": 1, "merge": 2}.get(method, 2)
    made = {"rejection": "sft.jsonl", "dpo": "pairs.jsonl"}.get(method)
    if made:  # the set is a parent, whose parent is the model that wrote it
        assert list(origin.data) == [made] and f"data {made} {origin.data[made][:12]}" in shown
        assert [parent.stage for parent in origin.parents] == ["pretrain", "long2short"]
        assert origin.parents[1].settings["long2short"]["questions"] == 6


def test_a_model_merged_with_itself_is_itself(runs):
    files = (runs / "merge" / "model" / "model.safetensors", Path(BASE, "model.safetensors"))
    assert files[0].stat().st_size == files[1].stat().st_size


def test_sets_come_from_the_models_own_answers(runs):
    for method, fields in (("dpo", {"prompt", "chosen", "rejected"}), ("rejection", {"prompt", "response"})):
        folder = runs / method / "set"
        rows = [json.loads(line) for path in folder.glob("*.jsonl") if path.name in ("pairs.jsonl", "sft.jsonl")
                for line in path.read_text().splitlines()]  # fmt: skip
        assert rows and all(set(row) == fields for row in rows)
        assert all("<answer>" in row.get("chosen", row.get("response")) for row in rows)
        assert json.loads((folder / "long2short.json").read_text())["rows"] == len(rows)


def test_rl_pays_for_length_and_cuts_earlier(runs):
    samples = pd.concat(pd.read_parquet(path) for path in sorted((runs / "rl" / "samples").rglob("*.parquet")))
    assert samples.response_tokens.max() == 64 and len(samples) == 64
    assert samples.reward_length.min() == -0.5 and samples.reward_length.max() <= 0.5
    expected = samples.reward_accuracy + 0.1 * samples.reward_format + 0.5 * samples.reward_length
    assert samples.reward.tolist() == pytest.approx(expected.tolist())


def test_a_finished_method_is_not_run_again(runs):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    gloo.run(_run, str(runs), *METHODS, ranks=1)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == before


def test_a_reward_model_is_no_start(tmp_path):
    lineage.born("reward_model", tmp_path, seed=0, settings={}).keep(tmp_path)
    cfg = compose("long2short", [f"checkpoint={tmp_path}", f"short={BASE}"], made=False)
    with pytest.raises(ConfigError, match="long2short.checkpoint=.*is what r1 reward_model made"):
        long2short.run(cfg)


def test_what_is_missing_is_said_before_any_work():
    with pytest.raises(ConfigError, match="long2short.checkpoint"):
        compose("long2short", ["method=dpo"])
    with pytest.raises(ConfigError, match="long2short.short"):
        compose("long2short", [f"checkpoint={BASE}"])
    with pytest.raises(ConfigError, match="long2short.response_tokens=300"):
        compose("long2short", [f"checkpoint={BASE}", "method=rl", "response_tokens=300"])
