"""The stages' own frame: what a run leaves in its folder does not hang on MLflow."""

import json
import signal

import pytest

from experiments.config import compose
from experiments.stages import stage_run
from infra.stopping import Stopped


def test_metrics_are_kept_in_the_folder_without_mlflow(tmp_path):
    cfg = compose("pretrain", [f"run.dir={tmp_path}", "tracking.enabled=false"])
    with stage_run(cfg, "pretrain", tmp_path) as (done, tracker, _):
        tracker.log({"train/loss": 1.5}, step=1, tokens=10)
    assert not done and not (tmp_path / "mlflow.json").exists()
    assert not (tmp_path / "config.yaml").exists()  # one writer: the command line, before any work
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["metrics"] == {"train/loss": 1.5}


def test_a_stage_told_to_stop_outside_the_loop_is_not_a_failure(tmp_path):
    cfg = compose("pretrain", [f"run.dir={tmp_path}", "tracking.enabled=false"])
    with pytest.raises(Stopped), stage_run(cfg, "pretrain", tmp_path):
        raise Stopped(signal.SIGTERM)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "KILLED"
