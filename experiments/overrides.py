"""`key=value` settings as the user typed them, made ready for Hydra; what is wrong is said in one line."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from infra.errors import ConfigError


def full(given: Sequence[str], own: str, root: type, groups: Sequence[str]) -> list[str]:
    """Settings of the command's own section, which may be typed without it, by their full keys.

    >>> from experiments.config import GROUPS, Config
    >>> full(["nproc=2", "launch=slurm", "launch.nodes=4"], "launch", Config, GROUPS)
    ['launch.nproc=2', 'launch=slurm', 'launch.nodes=4']
    """
    known = leaves(root)
    named = [(item, item.partition("=")[0]) for item in given]
    return [
        f"{own}.{item}" if key not in {*known, *groups} and f"{own}.{key}" in known else item for item, key in named
    ]


def prepare(
    given: Sequence[str], root: type, groups: Sequence[str], options_of: Callable[[str], list[str]]
) -> tuple[list[str], dict[str, str]]:
    """-> (overrides for Hydra, texts by key). Texts pass Hydra by: its grammar would read `,`, `=` and `${` in them.

    root: the dataclass of all settings; options_of: the choices of a config group. Raises ConfigError for whatever
    names no setting, or gives a value of another type.
    """
    known = leaves(root)
    composed, texts = [], {}
    for item in given:
        key, equals, value = item.partition("=")
        if key not in groups and key not in known:
            raise _unknown(key, value, list(known), groups)
        if not equals:
            raise ConfigError(key, "", "no value is given", f"write {key}={_example(*known.get(key, (str, '...')))}")
        if key in groups:
            if item != "experiment=null":  # which is the default
                _check_option(key, value, options_of(key))
                composed.append(item)
        elif known[key][0] is str:
            texts[key] = value
        else:
            _check_value(item, key, value, *known[key])
            mapping = typing.get_origin(known[key][0]) is dict
            composed.append(f"++{item}" if mapping else item)  # Hydra adds no keys to a mapping unless told to
    return composed, texts


def replace_text(cfg: Any, key: str, value: str) -> Any:
    """The dataclass with the setting of that full key replaced; every dataclass on the way judges itself anew."""
    head, _, rest = key.partition(".")
    return dataclasses.replace(cfg, **{head: replace_text(getattr(cfg, head), rest, value) if rest else value})


def leaves(root: type, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Every setting by its full key -> (type, default)."""
    found: dict[str, tuple[Any, Any]] = {}
    hints = typing.get_type_hints(root)
    for f in dataclasses.fields(root):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            found |= leaves(kind, f"{prefix}{f.name}.")
        else:
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            found[prefix + f.name] = (kind, default)
    return found


def _unknown(key: str, value: str, known: list[str], groups: Sequence[str]) -> ConfigError:
    """No such key: the nearest ones, by spelling, or by the name behind the last dot."""
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return ConfigError(key, value, "is a section, not a setting", f"set one of its keys, as {inside[0]}")
    last = key.rsplit(".", 1)[-1]
    near = [name for name in known if name.rsplit(".", 1)[-1] == last]
    tails = {name.rsplit(".", 1)[-1]: name for name in known} | {group: group for group in groups}
    if last != key:
        near += difflib.get_close_matches(key, [*known, *groups], n=2)
    if not near:
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=2)]
    meant = f"did you mean {' or '.join(dict.fromkeys(near[:3]))}?" if near else "r1 <command> --help lists all"
    return ConfigError(key, value, "there is no such setting", meant)


def _check_option(group: str, value: str, options: list[str]) -> None:
    if value in options:
        return
    near = difflib.get_close_matches(value, options, n=1)
    choose = f"choose one of {', '.join(sorted(options))}" if options else "leave it out, there is none"
    raise ConfigError(group, value, "there is no such option", f"did you mean {near[0]}? {choose}" if near else choose)


def _check_value(text: str, key: str, value: str, kind: Any, default: Any) -> None:
    """Raise ConfigError where Hydra cannot read the value, or where it is of another type."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    wrong = ConfigError(key, value, _problem(kind), _remedy(kind, default))
    if "${" in value:
        raise wrong
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        raise wrong from None
    if override.is_sweep_override():
        raise ConfigError(key, value, "is several values, and a run has one", _remedy(kind, default))
    slot = dataclasses.make_dataclass("Slot", [("value", kind, dataclasses.field(default_factory=lambda: default))])
    try:
        OmegaConf.update(OmegaConf.structured(slot), "value", override.value())
    except OmegaConfBaseException:
        raise wrong from None


def _plain(kind: Any) -> Any:
    """The type without its `| None`."""
    if isinstance(kind, types.UnionType):
        return next(part for part in kind.__args__ if part is not type(None))
    return kind


def _problem(kind: Any) -> str:
    plain = _plain(kind)
    if isinstance(plain, type) and issubclass(plain, Enum):
        return "is not among the choices"
    names = {int: "is no whole number", float: "is no number", bool: "is neither true nor false"}
    return names.get(plain, "cannot be read")


def _remedy(kind: Any, default: Any) -> str:
    plain = _plain(kind)
    if isinstance(plain, type) and issubclass(plain, Enum):
        return f"choose one of {', '.join(member.name for member in plain)}"
    return f"set a value such as {_example(kind, default)}"


def _example(kind: Any, default: Any) -> str:
    """The default as it is typed on the command line."""
    if isinstance(default, Enum):
        return default.name
    if isinstance(default, list):
        items = ",".join(item.name if isinstance(item, Enum) else str(item) for item in default) or (
            "1.0" if float in typing.get_args(kind) else "..."
        )
        return f"[{items}]"
    if isinstance(default, bool):
        return str(default).lower()
    return "null" if default is None else "{NAME: value}" if default == {} else f"{default}"
