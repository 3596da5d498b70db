"""Runs of claims: once each, in order, shared by processes, and one claim that really trains, from end to end."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from experiments import curves
from experiments.claims import quantities, table
from experiments.claims import run as running
from experiments.claims.arms import Run, listed, runs_of
from experiments.claims.claim import load, load_scale
from experiments.config import Config
from experiments.curves_config import CompareConfig
from infra.errors import ConfigError, TrainingDiverged
from infra.files import lock, write_json

SMALL = [
    "pretrain.tokens=6000",
    "pretrain.batch_tokens=1000",
    "pretrain.tokenizer_documents=200",
    "pretrain.evaluate_documents=4",
    "pretrain.evaluate_every=2",
    "evaluate.questions=4",
    "evaluate.samples=2",
    "sampling.max_response_tokens=16",
    "parallel.nproc=1",
]
CLAIM = {
    "id": "C99",
    "title": "Training lowers the loss",
    "source": "nowhere",
    "paper": "it does",
    "arms": {
        "trained": {"command": "pretrain", "evaluate": False},
        "asked": {"command": "evaluate", "start": "trained", "fixed": True},
    },
    "rules": [
        {"name": "loss", "of": "trained.eval/loss@last", "minus": "trained.eval/loss@first", "below": 0},
        {"name": "tokens", "of": "asked.eval/response_tokens", "above": 0},
    ],
    "seeds": [0, 1],
}


def made(folder: Path, **changed: object):
    path = folder / "C99.yaml"
    path.write_text(yaml.safe_dump(CLAIM | changed))
    return load(path)


def arm(name: str, *needs: Run, fixed: bool = False, start: str = "") -> Run:
    return Run(
        arm=name, command="pretrain", start=start, settings=(), evaluate=None, fixed=fixed, needs=needs, seconds=1.0,
        resolved={},
    )  # fmt: skip


@pytest.fixture
def called(monkeypatch):
    """Commands that were run, by the folder of their run; nothing is trained."""
    seen: list[str] = []

    def call(command, log):
        name = f"{log.parent.parent.name}/{log.parent.name}"
        seen.append(name)
        if name.startswith("broken"):
            raise running.Failed("it broke")
        if name.startswith("diverged"):
            raise running.Diverged("loss=nan")
        (log.parent / "metrics.jsonl").write_text('{"step": 1, "metrics": {"train/loss": 2.0}}\n')
        (log.parent / "run.json").write_text('{"commit": "of the run", "dirty": true}')
        return ""

    monkeypatch.setattr(running, "_call", call)
    return seen


def test_every_run_is_done_once_behind_what_it_needs(tmp_path, called):
    base = arm("base", fixed=True)
    child = arm("child", base, start="base")
    work = listed([child, base], [0, 1])
    assert running.run_all(work, tmp_path / "runs", tmp_path / "results") == {}
    assert called == ["base/seed0", "child/seed0", "child/seed1"]
    raw = json.loads(running.raw_path(tmp_path / "results", child, 1).read_text())
    assert (raw["seed"], raw["values"]["train/loss@mean"]) == (1, 2.0)
    assert (raw["commit"], raw["dirty"]) == ("of the run", True) and raw["cores"] > 0
    running.run_all(work, tmp_path / "runs", tmp_path / "results")
    assert len(called) == 3


def test_a_model_that_is_gone_is_made_again_only_where_a_new_run_needs_it(tmp_path, called, capsys):
    base = arm("base")
    one, other = arm("one", base, start="base"), arm("other", base, start="base")
    folders = tmp_path / "runs", tmp_path / "results"
    running.run_all(listed([one], [0]), *folders)
    shutil.rmtree(tmp_path / "runs")
    running.run_all(listed([one], [0]), *folders)
    assert called == ["base/seed0", "one/seed0"]
    raw = running.raw_path(folders[1], base, 0)
    raw.write_text('{"seed": "of the model that is gone"}')
    running.run_all(listed([one, other], [0]), *folders)
    assert json.loads(raw.read_text())["seed"] == 0
    assert called == ["base/seed0", "one/seed0", "base/seed0", "other/seed0"]
    assert "made anew" in capsys.readouterr().err


def test_a_failure_stops_what_builds_on_it_and_nothing_else(tmp_path, called):
    broken = arm("broken")
    work = listed([arm("child", broken, start="broken"), arm("sound")], [0])
    failed = running.run_all(work, tmp_path / "runs", tmp_path / "results")
    assert failed == {"broken/seed0": "it broke", "child/seed0": "broken has failed"}
    assert called == ["broken/seed0", "sound/seed0"]


def test_a_run_that_diverged_is_told_to_the_verdict_and_so_are_those_behind_it(tmp_path, called):
    diverged = arm("diverged")
    work = listed([arm("child", diverged, start="diverged"), arm("sound")], [0])
    folders = tmp_path / "runs", tmp_path / "results"
    assert set(running.run_all(work, *folders)) == {"child/seed0", "diverged/seed0"}
    for run, _ in work[:2]:
        raw = json.loads(running.raw_path(folders[1], run, 0).read_text())
        assert raw["values"] == {} and raw["failed"] and "commit" in raw
    other = arm("other", diverged, start="diverged")  # a later process does not train it again, and knows
    assert running.run_all(listed([other], [0]), *folders) == {"other/seed0": "diverged diverged"}
    assert called == ["diverged/seed0", "sound/seed0"]

    claim = made(tmp_path, arms={"trained": CLAIM["arms"]["trained"]}, rules=CLAIM["rules"][:1], seeds=list(range(6)))
    runs = runs_of(claim, "tiny", load_scale("tiny"))
    for seed in claim.seeds:
        path = running.raw_path(folders[1], runs["trained"], seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"eval/loss@first": 3.0, "eval/loss@last": 2.0 + 0.01 * seed} if seed else {}
        path.write_text(json.dumps({"values": values, "seconds": {"train": 1.0}}))
    row = table.entry(claim, runs, folders[1], "tiny", "")
    assert (row["verdict"], row["reason"], row["seeds"]) == ("inconclusive", "no number in seed 0", [1, 2, 3, 4, 5])


def test_what_a_command_says_tells_how_it_ended(tmp_path):
    log, said = tmp_path / "train.log", tmp_path / "said.py"
    log.write_text("r1 zero: stopped by SIGTERM; an earlier start\n")  # not this one's end
    for text, code, kind in (
        (f"step 3: loss=nan: {TrainingDiverged.SAID} before the weights moved\na last word", 2, running.Diverged),
        ("r1 zero: stopped by SIGTERM; the same command goes on\na last word", 0, running.Failed),
        ("killed", 1, running.Failed),
    ):
        said.write_text(f"import sys\nprint({text!r}, file=sys.stderr)\nsys.exit({code})")
        with pytest.raises(running.Failed) as caught:
            running._call([str(said), ""], log)
        assert type(caught.value) is kind
    said.write_text("print('fine')")
    assert running._call([str(said), ""], log) == "fine\n"


def test_what_another_process_is_at_is_left_to_it(tmp_path, called, monkeypatch):
    first, second = arm("first"), arm("second")
    held = lock(tmp_path / "runs" / "first" / "seed0.lock", wait=False)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: held.close())  # its end comes while we wait
    running.run_all(listed([first, second], [0]), tmp_path / "runs", tmp_path / "results")
    assert called == ["second/seed0", "first/seed0"]


def test_a_claim_trains_is_judged_and_is_rebuilt_without_training(tmp_path):
    claim, scale = made(tmp_path), load_scale("tiny")
    runs = runs_of(claim, "tiny", scale, "", SMALL)
    folders = tmp_path / "runs", tmp_path / "results"
    assert running.run_all(listed(list(runs.values()), claim.seeds), *folders) == {}

    row = table.entry(claim, runs, folders[1], "tiny", "r1 claim id=C99")
    assert row["seeds"] == [0, 1] and row["verdict"] == "inconclusive"
    assert row["rules"][0]["reason"] == "2 of at least 5 seeds were run"
    assert row["rules"][1]["verdict"] == "reproduced"  # nothing in it is drawn but once
    losses = [
        quantities.series(folders[0] / runs["trained"].arm / f"seed{seed}" / "metrics.jsonl")["eval/loss"]
        for seed in (0, 1)
    ]
    fell = [list(points.values())[-1] - list(points.values())[0] for points in losses]
    assert row["ours"]["mean"] == pytest.approx(sum(fell) / 2, abs=1e-4) and fell[0] != fell[1]
    assert row["cost_s"] > 0

    _check_compare(folders[0] / runs["trained"].arm, tmp_path)
    shutil.rmtree(folders[0])
    assert table.entry(claim, runs, folders[1], "tiny", "r1 claim id=C99") == row


def _check_compare(runs: Path, folder: Path) -> None:
    """A band of these runs holds each of them, and not one that was sabotaged from its fourth step."""
    for seed in (0, 1):
        shutil.copytree(runs / f"seed{seed}", folder / f"seed{seed}")
    third = folder / "seed2"
    shutil.copytree(folder / "seed0", third)
    told = json.loads((third / "run.json").read_text())
    (third / "run.json").write_text(json.dumps(told | {"seed": 2}))
    made = curves.band([folder / f"seed{seed}" for seed in (0, 1, 2)])
    assert made["stage"] == "pretrain" and "train/loss" in made["metrics"]

    good = quantities.series(folder / "seed1" / "metrics.jsonl")
    assert all(metric.at is None for metric in curves.judge(good, made, 0.25, 3))
    bad = {name: dict(points) for name, points in good.items()}
    for step in bad["train/loss"]:
        bad["train/loss"][step] += 5.0 * (step >= 4)
    left = {metric.metric: metric.at for metric in curves.judge(bad, made, 0.25, 3) if metric.at is not None}
    assert left == {"train/loss": 4}

    short = folder / "short"
    shutil.copytree(folder / "seed1", short)
    (short / "metrics.jsonl").write_text('{"step": 0, "metrics": {"other": 1.0}}\n')
    (folder / "bands").mkdir()
    write_json(folder / "bands" / "c99.json", made | {"metrics": {"train/loss": made["metrics"]["train/loss"]}})
    cfg = Config()
    cfg.compare = CompareConfig(run=str(short), folder=str(folder / "bands"))
    with pytest.raises(ConfigError, match="no step in common"):
        curves.compare(cfg)
    cfg.compare.run = str(folder / "seed1")
    assert curves.compare(cfg) == 0

    with pytest.raises(ConfigError, match="have the seeds"):
        curves.band([folder / "seed0", folder / "seed0", folder / "seed1"])
    (third / "run.json").write_text(json.dumps(told | {"seed": 2, "config": _with_lr(told["config"])}))
    with pytest.raises(ConfigError, match="pretrain.optimizer.lr"):
        curves.band([folder / f"seed{seed}" for seed in (0, 1, 2)])


@pytest.mark.parametrize(
    ("stage", "decides", "does_not"),
    [
        ("cold_start", "sft.optimizer.lr", "rl.optimizer.lr"),
        ("distill", "sft.epochs", "cold_start.examples"),
        ("distill", "sft.epochs", "sft.data"),
        ("reward_model", "reward_model.made_pairs", "sft.epochs"),
        ("zero", "rl.optimizer.lr", "sft.optimizer.lr"),
    ],
)
def test_a_band_is_of_runs_that_differ_in_nothing_their_stage_reads(tmp_path, stage, decides, does_not):
    def run(seed: int, key: str, value: object) -> Path:
        config = OmegaConf.structured(Config())
        OmegaConf.update(config, key, value)
        folder = tmp_path / str(seed)
        folder.mkdir(exist_ok=True)
        told = {"seed": seed, "commit": "a", "tags": {"stage": stage}, "config": OmegaConf.to_container(config)}
        (folder / "run.json").write_text(json.dumps(told, default=str))
        found = [{"train/loss": seed / step, "rl/truncated_frac": 0.4 * seed} for step in (1, 2)]
        lines = [{"step": step, "metrics": metrics} for step, metrics in enumerate(found, 1)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return folder

    same = [run(seed, does_not, f"{seed}1" if does_not == "sft.data" else seed + 1) for seed in (0, 1, 2)]
    made = curves.band(same)
    loss, share = made["metrics"]["train/loss"], made["metrics"]["rl/truncated_frac"]
    assert made["stage"] == stage and loss["mean"] == [1.0, 0.5] and loss["low"][0] < 0
    assert (share["low"], share["mean"], share["high"]) == ([0.0] * 2, [0.4] * 2, [1.0] * 2)
    with pytest.raises(ConfigError, match=decides):
        curves.band([run(seed, decides, seed + 1) for seed in (0, 1, 2)])


def _with_lr(config: dict) -> dict:
    pretrain = config["pretrain"]
    return config | {"pretrain": pretrain | {"optimizer": pretrain["optimizer"] | {"lr": 1.0}}}


def test_a_circle_an_unknown_arm_and_an_unknown_key_are_refused(tmp_path):
    circle = {"a": {"command": "zero", "start": "b"}, "b": {"command": "zero", "start": "a"}}
    rules = [{"name": "x", "of": "a.x", "above": 0}]
    for changed, said in (
        ({"arms": circle, "rules": rules}, "starts from itself"),
        ({"arms": {"a": {"command": "zero", "start": "c"}}, "rules": rules}, "is no arm"),
        ({"rules": [{"name": "x", "of": "trained.x"}]}, "no verdict"),
        ({"rules": [{"name": "x", "of": "trained.x", "above": 0, "below": 1}]}, "two bounds"),
        ({"hope": 1}, "no such key"),
    ):
        with pytest.raises(ConfigError, match=said):
            made(tmp_path, **changed)


def test_answers_with_a_check_are_compared_within_a_question(tmp_path):
    rows = [
        # question, checks, right: in q1 checking helps, in q2 it does not, q3 has no answer without, q4 none with
        ("q1", True, 1.0), ("q1", True, 1.0), ("q1", False, 0.0), ("q1", False, 1.0),
        ("q2", True, 0.0), ("q2", False, 1.0),
        ("q3", True, 1.0),
        ("q4", False, 0.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["question_id", "reflects", "reward_accuracy"]).assign(
        response_tokens=range(1, 9), stopped=[True] * 5 + [False] + [True] * 2
    )
    frame.to_parquet(tmp_path / "answers.parquet")
    found = quantities.answers(tmp_path / "answers.parquet")
    assert found["eval/check_effect"] == pytest.approx((0.5 - 1.0) / 2)
    assert found["eval/right_with_check"] == pytest.approx(3 / 4)
    assert found["eval/right_without_check"] == pytest.approx(2 / 4)
    assert found["eval/questions_with_both"] == 2
    assert found["eval/response_tokens/wrong_ended"] == pytest.approx((3 + 5 + 8) / 3)  # all wrong ones ended
    cut = frame.assign(stopped=[True, True, False, True, False, True, True, True])
    cut.to_parquet(tmp_path / "answers.parquet")
    assert quantities.answers(tmp_path / "answers.parquet")["eval/response_tokens/wrong_ended"] == 8.0
    frame.assign(reflects=False).to_parquet(tmp_path / "answers.parquet")
    assert quantities.answers(tmp_path / "answers.parquet")["eval/check_effect"] is None


def test_curves_of_a_metric(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = [(step, 0.1 * step if step != 5 else None) for step in range(1, 21)]
    lines = [json.dumps({"step": s, "metrics": {"eval/x/pass_at_1": v, "hidden": 1.0}}) for s, v in values]
    lines += [json.dumps({"step": 20, "metrics": {"eval/x/pass_at_1": 1.0}}), '{"step": 21, "met']
    path.write_text("\n".join(lines))
    series = quantities.series(path)
    found = quantities.curves(series)
    assert found["eval/x/pass_at_1@first"] == pytest.approx(0.15)  # steps 1 and 2
    assert found["eval/x/pass_at_1@last"] == pytest.approx((1.9 + 1.0) / 2)  # the later of step 20
    assert found["eval/x/pass_at_1@mean"] is None  # step 5 was no number
    assert not any("hidden" in name for name in found)
    series["eval/x/pass_at_1"].pop(5)
    assert quantities.curves(series)["eval/x/pass_at_1@drops"] == pytest.approx(0.9)
