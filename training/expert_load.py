"""Load and bias of each expert through training: a line of experts.jsonl now and then (V3 §2.1.2; Wang et al. 2024).

Line: {"step", "layers": [{"layer", "mtp", "load": [experts], "bias": [experts]}]}, load 1 where a layer's experts share
evenly. Loads are summed on the way by train_step; a line is written at each of the first 100 steps, then at every 10th
of the first 1000, and so on, so that the file stays small whatever the run.
"""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from infra.progress import say
from training import parallel
from training.state import TrainState

from megatron.core import parallel_state  # isort: skip  -- after the CPU layer, which parallel installs

FILE = "experts.jsonl"


def due(step: int) -> bool:
    """Whether a line is written after `step` steps: 1 to 100, 110, ..., 1000, 1100, ..."""
    return step % 10 ** max(0, len(str(step - 1)) - 2) == 0


def write(state: TrainState, run_dir: Path) -> None:
    """Write the line of this step, where one is due; every rank calls it. A full disk costs the line, not the run."""
    if not due(state.step) or state.expert_loads is None:
        return
    layers = _of_all_stages(_layers(state))
    state.expert_loads = None
    if not layers or not parallel.is_main():
        return
    # A newline before it, too: a line that a crash cut short spoils no other.
    line = f"\n{json.dumps({'step': state.step, 'layers': layers})}\n"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with (run_dir / FILE).open("a") as file:
            file.write(line)
    except OSError as error:
        say(f"warning: {run_dir / FILE}: {error.strerror}; the experts' load at step {state.step} is not kept")


def _layers(state: TrainState) -> list[dict[str, Any]]:
    """Of this rank's routers; those that saw no token since the last line are left out."""
    extra = {id(parameter) for parameter in state.mtp_params}
    found = []
    for router, load in zip(state.routers, state.expert_loads, strict=True):
        if load.sum() > 0:
            share = (load / load.mean()).tolist()
            found.append(
                {
                    "layer": int(router.layer_number),
                    "mtp": id(router.weight) in extra,
                    "load": [round(value, 4) for value in share],
                    "bias": [round(value, 6) for value in router.expert_bias.tolist()],
                }
            )
    return found


def _of_all_stages(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pipeline stage's layers, in their order, MTP last."""
    stages = parallel_state.get_pipeline_model_parallel_group()
    parts = [own]
    if stages.size() > 1:
        parts = [None] * stages.size()
        dist.all_gather_object(parts, own, group=stages)
    return sorted((layer for part in parts for layer in part), key=lambda layer: (layer["mtp"], layer["layer"]))
