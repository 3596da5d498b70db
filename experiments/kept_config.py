"""A run's settings in its folder: config.yaml, and no run of other settings over it."""

import os
from pathlib import Path
from typing import Any

from experiments.config import Config, to_dict
from infra.errors import ConfigError
from rl.objective_config import AdvantageKind, ObjectiveConfig, ObjectiveName

_DECIDE_ALWAYS = ("run.seed", "model.", "corpus.", "task.", "reward.", "sampling.")
_DECIDE_ALWAYS += ("rl.checkpoint", "dpo.checkpoint", "dpo.data", "reproduce.base", "captions.")
_DECIDE_ALWAYS += ("pretrain.checkpoint", "pretrain.data", "pretrain.tokenizer")
_DECIDE_ALWAYS += ("long2short.checkpoint", "long2short.method", "sft.checkpoint", "sft.data")
_DECIDE_ALWAYS += tuple(f"reward_model.{key}" for key in ("checkpoint", "pairs", "made_pairs", "reads", "held_out"))
_DECIDE_NEVER = tuple(f"reward.judge.{key}" for key in ("cache", "timeout_s", "retries", "requests", "max_unread"))
_DECIDE_RESULT = ("pretrain.", "rl.", "dpo.", "reward_model.", "evaluate.questions", "evaluate.samples")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"rl": {"steps": 3}} -> {"rl.steps": 3}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def refuse_other_run(cfg: Config, folder: Path) -> None:
    """Raise ConfigError where the folder holds a run of other settings, whose results would pass for these.

    Another seed, network, corpus, task, reward or sampling; in a finished run, any setting of its stages. What an
    earlier version had no setting for was as the default is now.
    """
    import yaml

    path = Path(folder) / "config.yaml"
    old = (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
    finished = any((path.parent / name).exists() for name in ("model/config.json", "summary.json"))
    before, now = (_settled(flat(settings)) for settings in (old, to_dict(cfg)))
    default = _settled(flat(to_dict(Config()))) if before else now
    for key, value in now.items():
        decides = key.startswith(_DECIDE_ALWAYS) or (finished and key.startswith(_DECIDE_RESULT))
        if not decides or key in _DECIDE_NEVER or before.get(key, default.get(key, value)) == value:
            continue
        if key in before:
            raise ConfigError(key, value, f"the run in {folder} has {before[key]}", "set that, or another run.dir")
        problem = f"the run in {folder} is of a version that knew no such setting"
        raise ConfigError(key, value, problem, "leave it out, or set another run.dir")


def _settled(settings: dict[str, Any]) -> dict[str, Any]:
    """With what rl.advantage=auto stands for, which runs of before it was there have in its place."""
    if settings.get("rl.advantage") != AdvantageKind.auto.name:
        return settings
    objective = ObjectiveName[settings["rl.objective.name"]]
    return settings | {"rl.advantage": ObjectiveConfig(name=objective).own_advantage.name}


def save_config(cfg: Config, folder: Path, *, refuse: bool = True) -> Path:
    """Write config.yaml into the folder, whole or not at all; -> its path. refuse: raise as refuse_other_run does."""
    import yaml

    if refuse:
        refuse_other_run(cfg, folder)
    path = Path(folder) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True))
    os.replace(scratch, path)
    return path
