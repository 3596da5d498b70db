"""A real SLURM on this machine, for tests that are marked slurm. See slurm.sh for what it is made of."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SCRIPT = str(Path(__file__).with_name("slurm.sh"))
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd")


@contextmanager
def cluster() -> Iterator[Path]:
    """Start it, with its packages where they are missing, and stop it at the end; -> the folder of its daemons' logs.

    Skips the test that asks, with the reason, where it cannot be had.
    """
    if os.getuid() != 0:
        pytest.skip("SLURM's daemons need root")
    if not all(map(shutil.which, _PROGRAMS)) and not shutil.which("apt-get"):
        pytest.skip("SLURM is not installed, and there is no apt-get to install it")
    installed = subprocess.run([_SCRIPT, "install"], capture_output=True, text=True, timeout=280)
    if installed.returncode:
        pytest.skip(f"SLURM could not be installed: {installed.stderr.strip()}")
    folder = Path(tempfile.mkdtemp(prefix="r1lab-slurm-"))  # pytest's own folders are closed to the database's user
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        subprocess.run([_SCRIPT, "up", str(folder), str(_ports(4))], check=True, timeout=120)
        yield folder
    finally:
        subprocess.run([_SCRIPT, "down", str(folder)], timeout=120)
        del os.environ["SLURM_CONF"]
        os.environ |= {"SLURM_CONF": before} if before else {}
        shutil.rmtree(folder, ignore_errors=True)


def _ports(number: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(100):
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")
