"""In what runs differ: settings side by side, and which runs are seeds of one experiment."""

import hashlib
import json
import re
from collections.abc import Mapping

import pandas as pd

NOT_COMPARED = {"seed", "dir", "name"}
"Last parts of the settings in which the seeds of one experiment differ."


def flat(config: Mapping, before: str = "") -> dict[str, object]:
    """{"rl": {"steps": 3}} -> {"rl.steps": 3}."""
    found: dict[str, object] = {}
    for name, value in config.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def setting(config: Mapping, name: str) -> object:
    """The setting of a name such as "rl.steps"; None where there is none such."""
    value: object = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def group_of(key: str, config: Mapping, commit: str | None) -> str:
    """A digest of what seeds of one experiment have in common; in paths their own folders' names are left out."""
    own = re.compile(rf"(?<=/){re.escape(key.partition('/')[0])}(?=[/\"])")
    facts = {name: value for name, value in flat(config).items() if name.rpartition(".")[2] not in NOT_COMPARED}
    text = own.sub("*", json.dumps([facts, commit], sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(configs: Mapping[str, Mapping]) -> pd.DataFrame:
    """run -> settings: a line for each setting in which they differ, a column a run; None where one has none such."""
    settings = {run: flat(config) for run, config in configs.items()}
    names = dict.fromkeys(name for values in settings.values() for name in values)
    rows = {}
    for name in names:
        values = [values.get(name) for values in settings.values()]
        if any(other != values[0] for other in values[1:]):
            rows[name] = [None if each is None else str(each) for each in values]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(settings), dtype=object)
    return table.rename_axis("setting").reset_index()
