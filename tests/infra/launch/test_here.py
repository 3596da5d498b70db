"""Stages in a row on this machine: the next one starts only when the one before is done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.config import compose
from infra.launch import here
from infra.launch.chain import chain
from infra.stopping import STOP_FILE
from tests.infra.launch.programs import program

STAGE = """echo "$4" >> {folder}/ran; [ "$4" != {stage} ] || {does}"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, does: str, *given: str) -> tuple[int, list[str]]:
    """-> (exit status, stages that ran) where that stage does what it is told to, and the others end well."""
    program(tmp_path / "bin", "python", STAGE.format(folder=tmp_path, stage=stage, does=does))
    monkeypatch.setattr(here.sys, "executable", str(tmp_path / "bin" / "python"))
    given = ["stages=[pretrain,zero,evaluate]", f"run.dir={tmp_path}/run", *given]
    cfg = compose("launch", given)
    code = here.run(chain(cfg, given), cfg.launch.seeds or [0])
    return code, (tmp_path / "ran").read_text().split()


@pytest.mark.parametrize(
    ("stage", "does", "code", "ran"),
    [
        ("none", "exit 1", 0, ["pretrain", "zero", "evaluate"]),
        ("zero", "exit 2", 2, ["pretrain", "zero"]),
        ("zero", "kill -9 $$", 137, ["pretrain", "zero"]),
        ("pretrain", f'touch "${STOP_FILE}"', 0, ["pretrain"]),
    ],
)
def test_a_chain_goes_on_while_all_is_well(
    stage: str, does: str, code: int, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, monkeypatch, stage, does) == (code, ran)


def test_every_seed_runs_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, "none", "exit 1", "seeds=[1,2]")[1] == ["pretrain", "zero", "evaluate"] * 2


WAITS = f"""
import os, signal, sys, time
open(sys.argv[-1], "w").write(" ".join(sys.argv[1:]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.environ["{STOP_FILE}"] == "word" and 7))
time.sleep(60)
"""


def test_a_signal_is_handed_on_and_the_stage_decides(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "__init__.py").touch()
    (tmp_path / "infra" / "cli.py").write_text(WAITS)
    begun = tmp_path / "begun"
    code = f"import sys; from infra.launch import here; sys.exit(here._run(['pretrain', {str(begun)!r}], Path('word')))"
    fake = f"from infra.launch import here; from pathlib import Path; here._PROJECT = Path({str(tmp_path)!r})\n"
    project = str(Path(__file__).parents[3])
    process = subprocess.Popen([sys.executable, "-c", fake + code], env=os.environ | {"PYTHONPATH": project})
    deadline = time.monotonic() + 120
    while not (begun.exists() and begun.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 7
    assert begun.read_text() == f"pretrain {begun}"
