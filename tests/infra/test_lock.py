"""The lock of a run folder, between real processes."""

import os
import signal
import subprocess
import sys

import pytest

from infra.errors import RunLocked
from infra.lock import RunLock

HOLD = """
import sys, time
from pathlib import Path
from infra.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path):
    run_dir = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RunLocked, match=f"process {holder.pid} works here; choose another run.dir"):
                RunLock(run_dir).__enter__()
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    with RunLock(run_dir):
        assert (run_dir / "lock").read_text() == str(os.getpid())


def test_the_lock_can_be_taken_again_after_its_context(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(RunLocked):
            RunLock(tmp_path).__enter__()
