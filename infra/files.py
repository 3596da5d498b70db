"""Small JSON files that are whole or not there, and advisory file locks."""

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, value: dict[str, Any]) -> None:
    """write_text of the value."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one. OSError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The file's content; empty when there is no file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def lock(path: Path, *, wait: bool) -> IO[str] | None:
    """The file, open and locked until it is closed or the process dies; None when another holds it and wait is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file
