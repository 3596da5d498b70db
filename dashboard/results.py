"""Results that are committed with the code (experiments/results), read for the pages Model and Claims."""

import json
from pathlib import Path
from typing import Any

import streamlit as st

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "results"


class Broken(Exception):
    """A file of results cannot be shown; the message is one line for the page."""


def read(name: str) -> Any | None:
    """RESULTS/<name> as JSON; None where it is not there. Raises Broken."""
    path = RESULTS / name
    try:
        stat = path.stat()
        return _read(str(path), stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise Broken(f"experiments/results/{name} can't be read: half-written or damaged.") from None


@st.cache_data(show_spinner=False, max_entries=50)
def _read(path: str, modified_ns: int, size: int) -> Any:
    return json.loads(Path(path).read_bytes())


def number(value: object) -> float | None:
    """A number, or None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
