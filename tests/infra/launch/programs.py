"""Programs of a cluster that say what a test wants them to say."""

import os
from pathlib import Path

import pytest


def program(folder: Path, name: str, script: str) -> None:
    """A shell script of that name in the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> Path:
    """Put these programs, and no SLURM that may be installed here, on the PATH."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        program(folder, name, script)
    places = ("/usr/local/bin", "/usr/bin", "/bin")
    system = [place for place in places if not os.path.exists(f"{place}/sbatch")]
    for name in ("bash", "sh", "id", "git", "cat", "env", "hostname", "mkdir", "tar", "gzip"):
        if not (folder / name).exists():
            (folder / name).symlink_to(next(f"{place}/{name}" for place in places if os.path.exists(f"{place}/{name}")))
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), *system]))
    return folder
