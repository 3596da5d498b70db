"""What the machine is said to be able to do, against other sources."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from infra import hardware
from infra.hardware import Check


def test_report_agrees_with_torch_and_the_system(tmp_path):
    checks = hardware.report(tmp_path / "not" / "made")
    found = json.loads(json.dumps(hardware.as_dict(checks)))
    assert found["torch"]["value"] == torch.__version__
    assert (found["cuda"]["ok"] is True) == torch.cuda.is_available()
    assert int(found["cores"]["value"]) == len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        assert found["fp8"]["ok"] is None and "sm90" in found["fp8"]["value"]
    assert all(check.remedy for check in checks if check.ok is False)


def test_table_has_a_line_for_each_check_with_its_remedy():
    table = hardware.text(
        [Check("cores", True, "2"), Check("sandbox", False, "no bubblewrap", "apt install bubblewrap")]
    )
    assert table == "ok  cores    2\nNO  sandbox  no bubblewrap; apt install bubblewrap"


def test_a_sandbox_that_starts_but_fails_is_reported_with_its_own_words(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to the user that the probe becomes
        os.chmod(folder, 0o755)
        program = Path(folder) / "bwrap"
        program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setattr(hardware.shutil, "which", lambda name: str(program))
        check = hardware._sandbox()
    assert check.ok is False and check.value.endswith("bwrap: No permissions to create new namespace")


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_a_sandbox_that_works_is_said_to_work():
    done = subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-user", "true"])
    assert hardware._sandbox().ok == (done.returncode == 0)


def test_slurm_whose_controller_is_silent_is_not_usable(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(hardware, "_answer", lambda command: "")
    assert hardware._slurm().ok is False


def test_peak_memory_is_what_was_used_in_gib():
    code = "from infra.hardware import *; a = peak_memory_gib(); b'1' * 2**28; print(peak_memory_gib() - a)"
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0.2 < grown < 0.3
