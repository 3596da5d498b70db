"""Lineage: the same inputs have the same id, a stage refuses what it is not for, the way to the base is printed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import lineage
from experiments.chat import RELEASED_BASE
from experiments.config import compose
from experiments.stages import OtherInputs, stage_run
from infra.errors import ConfigError, R1Error


def made(folder: Path, stage: str, *parents: Path, seed: int = 0, **settings) -> lineage.Lineage:
    """A model's folder with a lineage and nothing else."""
    origin = lineage.born(stage, folder, seed=seed, settings=settings, parents=tuple(map(lineage.of, parents)))
    origin.keep(folder / "model")
    return origin


def test_the_id_follows_all_that_decides_the_result_and_nothing_else(tmp_path):
    base = made(tmp_path / "base", "pretrain")
    one = made(tmp_path / "one", "cold_start", tmp_path / "base", sft={"epochs": 2, "save_every": 5})
    same = made(tmp_path / "same", "cold_start", tmp_path / "base", sft={"epochs": 2, "save_every": 9})
    assert one.id == same.id
    made(tmp_path / "other_base", "pretrain", seed=1)
    others = [
        made(tmp_path / "a", "cold_start", tmp_path / "base", sft={"epochs": 3}),
        made(tmp_path / "b", "cold_start", tmp_path / "base", seed=1, sft={"epochs": 2}),
        made(tmp_path / "c", "sft", tmp_path / "base", sft={"epochs": 2}),
        made(tmp_path / "d", "cold_start", tmp_path / "other_base", sft={"epochs": 2}),
        lineage.born("cold_start", tmp_path, seed=0, settings={"sft": {"epochs": 2}}, parents=(base,), data={"x": "1"}),
    ]
    assert len({one.id, *(other.id for other in others)}) == 6


def test_a_lineage_is_found_from_run_model_set_and_checkpoint(tmp_path):
    run = tmp_path / "run"
    origin = made(run, "rejection", RELEASED_BASE)
    origin.keep(run)
    (run / "data.parquet").write_text("x")
    (run / "checkpoints" / "step_00000010").mkdir(parents=True)
    for path in (run, run / "model", run / "data.parquet", run / "checkpoints" / "step_00000010"):
        found = lineage.read(path)
        assert found == origin and found.parents[0].stage == "pretrain"


def test_what_brings_no_lineage_is_known_by_what_it_holds(tmp_path):
    base = lineage.of(RELEASED_BASE)
    card = json.loads((RELEASED_BASE / "card.json").read_text())
    assert (base.stage, base.commit, base.seed) == ("pretrain", card["commit"], card["seed"])
    (tmp_path / "config.json").write_text("{}")
    there = lineage.of(tmp_path)
    assert there.stage == lineage.UNKNOWN and there.id == lineage.of(tmp_path).id
    (tmp_path / "config.json").write_text("{ }")
    assert lineage.of(tmp_path).id != there.id
    (tmp_path / "run.json").write_text(json.dumps({"tags": {"stage": "reward_model"}, "seed": 3}))
    assert (lineage.of(tmp_path).stage, lineage.of(tmp_path).seed) == ("reward_model", 3)
    with pytest.raises(R1Error, match="is not there"):
        lineage.of(tmp_path / "nowhere")


@pytest.mark.parametrize("stage", lineage.ACCEPTS)
def test_a_stage_takes_its_own_kind_and_refuses_others(stage, tmp_path):
    for kind in {"pretrain", "reward_model", *(k for kinds in lineage.ACCEPTS.values() for k in kinds)}:
        made(tmp_path / kind, kind)
        if kind in lineage.ACCEPTS[stage]:
            assert lineage.require(stage, "rl.checkpoint", tmp_path / kind).stage == kind
            continue
        with pytest.raises(ConfigError, match=f"is what r1 {kind} made; r1 {stage} takes") as refused:
            lineage.require(stage, "rl.checkpoint", tmp_path / kind)
        assert "\n" not in str(refused.value)


def test_the_command_refuses_the_wrong_kind_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "infra.cli",
        "reasoning",
        f"rl.checkpoint={RELEASED_BASE}",
        f"run.dir={tmp_path}/r",
    ]
    done = subprocess.run([*command, "parallel.nproc=1"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "is what r1 pretrain made; r1 reasoning takes a model of r1 cold_start" in done.stderr


def test_the_way_back_is_printed_though_folders_are_gone(tmp_path, capsys):
    made(tmp_path / "base", "pretrain")
    made(tmp_path / "cold", "cold_start", tmp_path / "base")
    made(tmp_path / "rl", "reasoning", tmp_path / "cold")
    (tmp_path / "cold" / "model" / "lineage.json").unlink()
    lineage.show(compose("lineage", [f"checkpoint={tmp_path}/rl"]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " id " in line]
    assert [line[0] for line in lines] == ["reasoning", "cold_start", "pretrain"]


def test_a_damaged_lineage_is_named(tmp_path):
    (tmp_path / "lineage.json").write_text('{"stage": 1}')
    with pytest.raises(R1Error, match="lineage.json: cannot be read"):
        lineage.read(tmp_path)


def test_a_folder_keeps_one_work(tmp_path):
    cfg = compose("pretrain", [f"run.dir={tmp_path}", "tracking.enabled=false"])
    parents = (lineage.of(RELEASED_BASE),)
    origin = lineage.born("sft", tmp_path, seed=0, settings={"sft": {"epochs": 2}}, parents=parents)
    with stage_run(cfg, "sft", tmp_path, origin) as (done, _, _):
        assert not done
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
    tags = json.loads((tmp_path / "run.json").read_text())["tags"]
    assert tags["lineage"] == origin.id and tags["parents"].startswith(f"pretrain {parents[0].id}")
    assert lineage.read(tmp_path / "model") == origin
    with stage_run(cfg, "sft", tmp_path, origin) as (done, _, _):
        assert done
    other = lineage.born("sft", tmp_path, seed=0, settings={"sft": {"epochs": 3}}, parents=parents)
    with pytest.raises(OtherInputs, match=f"run.dir={tmp_path}: holds a sft made from other inputs"):
        with stage_run(cfg, "sft", tmp_path, other):
            raise AssertionError("it began")
    (tmp_path / "model" / "config.json").unlink()
    with stage_run(cfg, "sft", tmp_path, other) as (done, _, _):  # more epochs on the way are the user's affair
        assert not done
    orphan = replace(origin, parents=(), id="another")
    with pytest.raises(OtherInputs):
        with stage_run(cfg, "sft", tmp_path, orphan):
            raise AssertionError("it began")
