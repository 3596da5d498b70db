"""experts.jsonl of a run (training/expert_load.py): load and bias of each expert, by layer and step."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.store import Run

MOST_CELLS = 20_000
"Of one layer's heat map; more steps are thinned, evenly."


@dataclass(frozen=True, slots=True)
class Layer:
    """One router through training."""

    steps: list[int]
    load: np.ndarray
    "[step, expert]; 1 is an even share."
    bias: np.ndarray
    "[step, expert]."


def read(run: Run) -> tuple[dict[str, Layer], int]:
    """("layer 2" -> its load and bias, number of lines that are no record); none where the run kept none."""
    path = run.folder / "experts.jsonl" if run.folder else None
    if path is None or path.is_symlink() or not path.is_file():
        return {}, 0
    stat = path.stat()
    return _read(str(path), stat.st_mtime_ns, stat.st_size)


@st.cache_data(show_spinner=False, max_entries=20)
def _read(path: str, modified_ns: int, size: int) -> tuple[dict[str, Layer], int]:
    records: dict[str, dict[int, tuple[list, list]]] = {}
    unreadable = 0
    for line in Path(path).read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(record["step"])
            found = [(_name(one), _row(one["load"]), _row(one["bias"])) for one in record["layers"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            unreadable += 1
            continue
        for name, load, bias in found:
            records.setdefault(name, {})[step] = (load, bias)  # a step done again replaces the first
    return {name: _layer(steps) for name, steps in records.items()}, unreadable


def _name(layer: dict) -> str:
    return f"{'MTP module' if layer['mtp'] else 'layer'} {int(layer['layer'])}"


def _row(values: list) -> list[float]:
    return [float(value) for value in values]


def _layer(steps: dict[int, tuple[list, list]]) -> Layer:
    """Lines whose number of experts is not the last one's are left out."""
    order = sorted(steps)
    width = len(steps[order[-1]][0])
    order = [step for step in order if len(steps[step][0]) == len(steps[step][1]) == width]
    return Layer(order, np.array([steps[s][0] for s in order]), np.array([steps[s][1] for s in order]))


def cells(layer: Layer) -> pd.DataFrame:
    """Rows step, expert, load, bias, drift: bias since the first line."""
    experts = layer.load.shape[1]
    keep = np.unique(np.linspace(0, len(layer.steps) - 1, max(2, MOST_CELLS // experts)).astype(int))
    steps = np.array(layer.steps)[keep]
    return pd.DataFrame(
        {
            "step": np.repeat(steps, experts),
            "expert": np.tile(np.arange(experts), len(keep)),
            "load": layer.load[keep].ravel(),
            "bias": layer.bias[keep].ravel(),
            "drift": (layer.bias[keep] - layer.bias[0]).ravel(),
        }
    )


def violations(layers: dict[str, Layer]) -> pd.DataFrame:
    """Rows step, layer, maxvio (the busiest expert's load above the even share) and spread (bias, largest - least)."""
    parts = [
        pd.DataFrame(
            {
                "step": layer.steps,
                "layer": name,
                "maxvio": layer.load.max(axis=1) - 1,
                "spread": np.ptp(layer.bias, axis=1),
            }
        )
        for name, layer in layers.items()
    ]
    return pd.concat(parts, ignore_index=True)
