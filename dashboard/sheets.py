"""Which review sheets there are in the run store."""

import os
from collections.abc import Iterator
from pathlib import Path

from agents.sheet import NAME
from dashboard.store import NOT_RUNS, root


def sheets() -> dict[str, Path]:
    """Path within the store -> path, of every sheet; links are not followed, so nothing outside is found or written."""
    found = sorted(_below(root(), 5))
    return {path.relative_to(root()).as_posix(): path for path in found}


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # gone, or not ours to read
        return
    for entry in entries:
        if entry.name == NAME and entry.is_file(follow_symlinks=False):
            yield folder / NAME
        elif depth and entry.name not in NOT_RUNS and entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, depth - 1)
