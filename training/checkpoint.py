"""Checkpoints: run_dir/checkpoints/step_00000100/, whole or not there at all.

A folder is written under another name and renamed once its last file, meta.json, is on disk. It holds the model, the
optimiser, the position of schedule and data, the random generators, the stage and the config.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from infra.errors import CheckpointError
from modeling.config import CONTEXT_FIELDS, ModelConfig, Modules
from modeling.tokenizer import Tokenizer
from training import parallel, storage, whole
from training.chunks import chunks
from training.state import TrainState

_FORMAT = 1
# Fields that two models may differ in and still share weights.
_FREE_FIELDS = ("aux_loss_alpha", "initializer_range", "modules", "experts", "fp8", "max_position_embeddings")


def save(state: TrainState, folder: Path, config: dict[str, Any], keep_last: int = 2) -> Path:
    """Write a checkpoint of run folder `folder`; every rank calls it. -> its path.

    config: the resolved config, kept with it. Older ones but the last keep_last are removed once this one is whole.
    Raises CheckpointError where it cannot be written; the older ones are untouched then.
    """
    target = Path(folder) / "checkpoints" / f"step_{state.step:08d}"
    partial = target.with_name(f".{target.name}.partial")
    rngs = parallel.gather_objects(storage.generators())
    data = state.data.state_dict() if state.data is not None else None
    needed = sum(map(storage.num_bytes, _networks(state).values()))
    files: dict[str, dict[str, Any]] = {}

    def start() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if shutil.disk_usage(partial).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        files[storage.RANKS] = storage.write_file(partial / storage.RANKS, {"generators": rngs, "data": data})
        for name, network in _networks(state).items():
            (partial / name).mkdir(exist_ok=True)
            if state.parallel_cfg.replicated:
                files.update({str(Path(name) / k): v for k, v in storage.write_plain(network, partial / name).items()})

    def finish() -> None:
        shards = [path for name in _networks(state) for path in (partial / name / storage.SHARDS).glob("**/*")]
        for path in sorted(shards):
            files[str(path.relative_to(partial))] = {"size": path.stat().st_size}
        meta = _meta(state, config) | {"files": files}
        with open(partial / "meta.json", "w") as file:
            json.dump(meta, file, indent=1, default=str)
            storage.sync(file)
        if target.exists():  # a damaged one of the same step
            target.rename(partial.with_suffix(".old"))
        partial.rename(target)
        _sync_folder(target.parent)
        _remove_old(target, keep_last)

    _on_main(start, partial, needed)
    if not state.parallel_cfg.replicated:
        for name, network in _networks(state).items():
            storage.write_sharded(network, partial / name)
        parallel.barrier()
    _on_main(finish, partial, needed)
    state.last_checkpoint = target
    return target


def load_latest(state: TrainState, folder: Path) -> Path | None:
    """Fill state from the newest whole checkpoint of run folder `folder`; -> its path, None where there is none.

    Every rank calls it. Damaged ones are passed over, with a line that says so. Raises CheckpointError for one of
    another stage, shape or optimiser.
    """
    found = parallel.broadcast_object(_newest_whole(Path(folder)) if parallel.is_main() else None)
    if found is None:
        return None
    path, meta = found
    _check_fits(path, meta, state)
    for name, network in _networks(state).items():
        if meta["kind"] == "sharded":
            storage.read_sharded(network, path / name)
        elif not storage.is_part(network.module):
            storage.read_plain(network, path / name)
        elif network is state:
            whole.read_plain(network, path, path.with_name(f".{path.name}.parts"))
        else:
            raise CheckpointError(f"{path}: the {name} was saved whole; go on in the layout that it was trained in")
        network.updates = meta.get("beside", {}).get(name, 0)
    ranks = storage.read_file(path / storage.RANKS)
    if parallel.rank() < len(ranks["generators"]):
        storage.restore_generators(ranks["generators"][parallel.rank()])
    if state.data is not None and ranks["data"] is not None:
        state.data.load_state_dict(ranks["data"])
    state.step, state.updates, state.tokens_seen = meta["step"], meta["updates"], meta["tokens_seen"]
    state.last_checkpoint = path
    return path


def load_weights(module: nn.Module, model_cfg: ModelConfig, path: Path) -> None:
    """Fill the bare network from a Hugging Face folder, a checkpoint, or a run (its newest whole checkpoint).

    Every rank calls it. Raises CheckpointError where there are none or of another shape. The optimiser's FP32 masters,
    if it has any, are not told: load before it is built.
    """
    found = resolve(path)
    if not (found / "meta.json").exists():
        from modeling import hf

        for chunk in chunks(module):
            hf.load_pretrained(chunk, model_cfg, found)
        return
    meta = json.loads((found / "meta.json").read_text())
    _check_shape(found, meta, model_cfg, free=(*_FREE_FIELDS, *CONTEXT_FIELDS, "dtype"))
    if meta["kind"] == "sharded":
        storage.read_sharded_weights(module, found)
    else:
        whole.read_weights(module, model_cfg, lambda network: storage.read_plain_weights(network, found))


def export(state: TrainState, folder: Path, tokenizer: Tokenizer) -> Path:
    """Write the network and its tokenizer to `folder` in Hugging Face layout, whole or not at all; -> folder.

    Every rank calls it. A network in parts that is too large for one rank stays the sharded checkpoint just written:
    -> that. Raises R1Error, on every rank, where it cannot be written.
    """
    from modeling import hf

    if storage.is_part(state.module) and not whole.fits(state.model_cfg):
        return state.last_checkpoint
    module = whole.Whole(state.module, state.model_cfg).module

    def write() -> None:
        hf.save_pretrained(module, state.model_cfg, folder)
        tokenizer.save(folder)

    parallel.on_main(write)
    return folder


def model_config(path: Path, modules: Modules = Modules.auto) -> ModelConfig:
    """The shape of the model in a checkpoint or a Hugging Face folder, as resolve() gives it.

    modules: building blocks to take instead of those it was saved with, but for auto.
    """
    meta = Path(path) / "meta.json"
    if meta.exists():
        cfg = ModelConfig.from_names(json.loads(meta.read_text())["model"])
    else:
        from modeling import hf

        cfg = hf.config_from(path)
    return cfg if modules is Modules.auto else dataclasses.replace(cfg, modules=modules)


def resolve(path: Path) -> Path:
    """The folder that holds the weights `path` speaks of: itself, or a run's newest whole checkpoint or its model/.

    Raises CheckpointError that says what was looked for.
    """
    path = Path(path)
    if (path / "meta.json").exists() or (path / "config.json").exists():
        return path
    found = _newest_whole(path) if (path / "checkpoints").is_dir() else None
    if found is not None:
        return found[0]
    if (path / "model" / "config.json").exists():
        return path / "model"
    what = "is not there" if not path.exists() else "holds no weights"
    raise CheckpointError(
        f"{path}: {what}; give a Hugging Face folder (config.json, *.safetensors), a checkpoint (meta.json) or a run"
    )


def _networks(state: TrainState) -> dict[str, TrainState]:
    """What a checkpoint holds, by its folder in it: the stage's own network, and those beside it."""
    return {"": state, **state.beside}


def _meta(state: TrainState, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "kind": "plain" if state.parallel_cfg.replicated else "sharded",
        "stage": state.stage,
        "step": state.step,
        "updates": state.updates,
        "tokens_seen": state.tokens_seen,
        "beside": {name: network.updates for name, network in state.beside.items()},
        "world": parallel.world(),
        "zero1": state.parallel_cfg.zero1,
        "optimizer": state.optimizer_cfg.name.name,
        "model": _plain(state.model_cfg),
        "config": config,
    }


def _plain(cfg: ModelConfig) -> dict[str, Any]:
    """A config as JSON has it."""
    return {k: v.name if isinstance(v, Enum) else v for k, v in dataclasses.asdict(cfg).items()}


def _newest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    for path in sorted((folder / "checkpoints").glob("step_*"), reverse=True):
        meta, problem = _inspect(path)
        if problem is None:
            return path, meta
        print(f"{path} is damaged ({problem}): falling back to the one before it", file=sys.stderr)
    return None


def _inspect(path: Path) -> tuple[dict[str, Any], str | None]:
    """-> (meta, None) for a whole checkpoint, else what is wrong with it."""
    try:
        meta = json.loads((path / "meta.json").read_text())
    except (OSError, ValueError):
        return {}, "no readable meta.json"
    if meta.get("format") != _FORMAT:
        return meta, f"format {meta.get('format')}, expected {_FORMAT}"
    for name, known in meta["files"].items():
        file = path / name
        if not file.exists():
            return meta, f"{name} is missing"
        if file.stat().st_size != known["size"]:
            return meta, f"{name} has {file.stat().st_size} of {known['size']} bytes"
        if "sha256" in known and _sha256(file) != known["sha256"]:
            return meta, f"{name} was changed"
    return meta, None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_fits(path: Path, meta: dict[str, Any], state: TrainState) -> None:
    if meta["stage"] != state.stage:
        raise CheckpointError(
            f"{path}: belongs to stage {meta['stage']}, this is {state.stage}; choose another run.dir"
        )
    if set(meta.get("beside", {})) != set(state.beside):
        here, there = (", ".join(names) or "none" for names in (state.beside, meta.get("beside", {})))
        raise CheckpointError(f"{path}: networks beside the policy: {there} (here {here}); choose another run.dir")
    _check_shape(path, meta, state.model_cfg)
    if meta["zero1"] != state.parallel_cfg.zero1:
        raise CheckpointError(
            f"{path}: the optimiser was saved with parallel.zero1={str(meta['zero1']).lower()}; set the same"
        )
    if meta["optimizer"] != state.optimizer_cfg.name.name:
        name = state.optimizer_cfg.name.name
        raise CheckpointError(
            f"{path}: was trained with optimizer.name={meta['optimizer']}, this is {name}; choose another run.dir"
        )


def _check_shape(path: Path, meta: dict[str, Any], cfg: ModelConfig, free: tuple[str, ...] = _FREE_FIELDS) -> None:
    # A field that came later has its default in an older checkpoint.
    saved, own = (json.loads(json.dumps(_plain(c))) for c in (ModelConfig.from_names(meta["model"]), cfg))
    differ = [
        f"{key}={saved.get(key)} (here {own.get(key)})"
        for key in sorted(saved.keys() | own.keys())
        if key not in free and saved.get(key) != own.get(key)
    ]
    if differ:
        raise CheckpointError(
            f"{path}: another model: {', '.join(differ)}; set the same under model, or choose another run.dir"
        )


def _on_main(action: Callable[[], None], partial: Path, needed: int) -> None:
    """Run action on rank 0. Where it cannot write, every rank raises, and what it has written is removed."""
    problem = None
    if parallel.is_main():
        try:
            action()
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            problem = f"{partial.parent}: cannot write the checkpoint: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                problem = (
                    f"{partial.parent}: no space left for a checkpoint of {needed / 2**20:.0f} MiB; earlier ones are "
                    "untouched: free some space and start again, the run goes on from there"
                )
    problem = parallel.broadcast_object(problem)
    if problem is not None:
        raise CheckpointError(problem)


def _sync_folder(folder: Path) -> None:
    """Put the folder's entries, so the rename, on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_old(newest: Path, keep_last: int) -> None:
    """Remove all but the last keep_last up to the newest, and what interrupted saves left."""
    older = [p for p in newest.parent.glob("step_*") if p.name <= newest.name]
    whole = sorted(p for p in older if (p / "meta.json").exists())
    for path in [*(set(older) - set(whole[-max(1, keep_last) :])), *newest.parent.glob(".step_*")]:
        shutil.rmtree(path, ignore_errors=True)
