"""The network's shape in a folder that a command starts from, read before torch is there to load the weights."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from infra.errors import ConfigError
from modeling.config import CONTEXT_FIELDS, ModelConfig


def model_of(key: str, folder: str) -> ModelConfig | None:
    """The shape of a Hugging Face folder, a checkpoint or a run; None where it is judged when weights are loaded.

    Raises ConfigError, naming the setting `key`, for a folder that is not there or whose config.json cannot be read.
    """
    path = Path(folder)
    if not path.exists():
        raise ConfigError(key, folder, "is not there", "give a Hugging Face folder, a checkpoint or a run")
    newest = sorted(path.glob("checkpoints/step_*/meta.json"), reverse=True)
    for file in (path / "config.json", path / "meta.json", *newest, path / "model" / "config.json"):
        if not file.is_file():
            continue
        try:
            stored = json.loads(file.read_text())
        except ValueError as error:
            if file.name == "meta.json":  # a damaged checkpoint is passed over when weights are loaded, too
                continue
            raise ConfigError(key, folder, f"{file.name} is no JSON ({error})", "give a whole folder") from None
        return ModelConfig.from_names(stored["model"]) if file.name == "meta.json" else ModelConfig.from_hf_dict(stored)
    return None


def with_folder(command: str, key: str, given: Sequence[str]) -> list[str]:
    """The settings with `model=hf:<folder or name>` made the setting `key`, from which the command starts.

    Raises ConfigError for a command that starts from nothing, and for a model that is not there.
    """
    chosen = [item for item in given if item.startswith("model=hf:")]
    if not chosen:
        return list(given)
    name = chosen[-1].removeprefix("model=hf:")
    if not key:
        raise ConfigError("model", f"hf:{name}", f"r1 {command} starts from no model", "leave it out")
    others = [item for item in given if item not in chosen]
    doubled = next((item for item in others if item.startswith(f"{key}=") and item != f"{key}="), None)
    if doubled is not None:
        raise ConfigError("model", f"hf:{name}", f"{doubled} is another start", "leave one of them out")
    from modeling import hub

    return [*others, f"{key}={hub.resolve('model', name)}"]


def with_context(there: ModelConfig, asked: ModelConfig, preset: ModelConfig, given: set[str]) -> ModelConfig:
    """The folder's shape with another context, where settings ask for one (V3 §4.3): weights do not depend on it.

    Asked for is what was typed (keys in `given`) and what a file sets, so that it differs from the preset.
    """
    chosen = {
        name: getattr(asked, name)
        for name in CONTEXT_FIELDS
        if f"model.{name}" in given or getattr(asked, name) != getattr(preset, name)
    }
    return dataclasses.replace(there, **chosen)


def from_hub(key: str, name: str) -> Path:
    """The folder of `hf:<folder or name>`, as a YAML file writes it. Raises ConfigError, naming the setting `key`."""
    from modeling import hub

    return hub.resolve(key, name.removeprefix("hf:"))


def check_shape(key: str, folder: str, there: ModelConfig, asked: ModelConfig, given: set[str]) -> None:
    """Raise ConfigError where the user gave (keys in `given`) another shape than that of the folder."""
    for f in dataclasses.fields(ModelConfig):
        stored, wanted = getattr(there, f.name), getattr(asked, f.name)
        if f.name != "modules" and stored != wanted and given & {"model", f"model.{f.name}"}:
            value, problem = getattr(wanted, "name", wanted), f"{key}={folder} has {getattr(stored, 'name', stored)}"
            raise ConfigError(f"model.{f.name}", value, problem, "leave it out")
