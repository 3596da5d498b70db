"""Arms as runs: what an arm's settings come to, its name by a hash of them, and the list of what is to be run.

Two arms of different claims whose resolved settings are equal are one, run once. The hash is over what differs from
the defaults, so that a setting which a later version adds does not orphan results.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.claims.claim import Claim, Scale
from experiments.config import GROUPS, Config, compose, to_dict
from experiments.kept_config import flat
from experiments.reads import FOLDERS
from infra.commands import COMMANDS
from infra.errors import ConfigError

_NOT_HASHED = ("run", "tracking", "parallel", "launch", "claim", "doctor", "generate")
"Sections that change no result."
_NOT_RESULTS = ("json", "chart", "save_every")
DECODE = "decode"
"Not a command of r1: python -m experiments.claims.decode, plain against speculative decoding."


@dataclass(kw_only=True, frozen=True)
class Run:
    """An arm at a scale, whatever the claims that name it; `<arm>/seed<k>` is one of its runs."""

    arm: str
    "Its name: command and hash."
    command: str
    start: str
    "The folder of a model, or the name of another Run; empty: from nothing."
    settings: tuple[str, ...]
    "As typed, without start, folder and seed; {name} stands for the folder of another Run."
    evaluate: tuple[str, ...] | None
    "Settings of its evaluation; None where there is none."
    fixed: bool
    needs: tuple["Run", ...]
    seconds: float
    "Of one seed, estimated."
    resolved: dict[str, Any] = field(repr=False)
    "Every setting that decides its result."

    def seed(self, seed: int) -> int:
        """The seed it runs with in the place of `seed`."""
        return 0 if self.fixed else seed


def runs_of(claim: Claim, scale_name: str, scale: Scale, base: str = "", given: Sequence[str] = ()) -> dict[str, Run]:
    """Arm -> Run. given: further settings, as typed, for every command that reads them. Raises ConfigError."""
    found: dict[str, Run] = {}
    base, settings_there = base or scale.base, claim.at.get(scale_name, {})
    for name in claim.order():
        arm = claim.arms[name]
        places = {need: found[need].arm for need in arm.needs}
        start = base if arm.start == "base" else places.get(arm.start, "")
        own = [_placed(item, places | {"base": base}) for item in settings_there.get(name, arm.settings)]
        settings = [*_at(scale_name), *scale.settings.get(arm.command, []), *own, *_read_by(arm.command, given)]
        asked = None
        if arm.evaluate and arm.command not in ("evaluate", "plan", DECODE):
            asked = [*_at(scale_name), *scale.settings.get("evaluate", []), *arm.asked, *_read_by("evaluate", given)]
        resolved = {"command": arm.command, "start": start, "settings": _resolved(arm.command, tuple(settings), start)}
        if asked is not None:
            resolved["evaluate"] = _resolved("evaluate", tuple(asked), "")
        found[name] = Run(
            arm=f"{arm.command}-{_hash(resolved)}",
            command=arm.command,
            start=start,
            settings=tuple(settings),
            evaluate=None if asked is None else tuple(asked),
            fixed=arm.fixed,
            needs=tuple(found[need] for need in arm.needs),
            seconds=scale.seconds.get(arm.command, 0.0) + (scale.seconds["evaluate"] if asked is not None else 0.0),
            resolved=resolved,
        )
    return found


def listed(runs: Sequence[Run], seeds: Sequence[int]) -> list[tuple[Run, int]]:
    """Each (run, seed) once, behind those it needs; all arms of a seed before the next, so that pairs come first."""
    found: dict[tuple[str, int], tuple[Run, int]] = {}

    def add(run: Run, seed: int) -> None:
        for need in run.needs:
            add(need, seed)
        found.setdefault((run.arm, run.seed(seed)), (run, run.seed(seed)))

    for seed in seeds:
        for run in runs:
            add(run, seed)
    return list(found.values())


def _placed(item: str, names: dict[str, str]) -> str:
    """{arm} by the name of its Run; {base} by the folder."""
    for name, value in names.items():
        item = item.replace(f"{{{name}}}", value if name == "base" else f"{{{value}}}")
    return item


def _at(scale_name: str) -> list[str]:
    return [] if scale_name == "tiny" else [f"scale={scale_name}"]


def _read_by(command: str, given: Sequence[str]) -> list[str]:
    """The typed settings that the command reads."""
    if command not in COMMANDS:
        return []
    sections = COMMANDS[command].sections
    return [item for item in given if item.partition("=")[0].partition(".")[0] in sections]


@functools.cache
def _resolved(command: str, settings: tuple[str, ...], start: str) -> dict[str, Any]:
    """The command's settings that decide results, flat, where they differ from the defaults."""
    if command == DECODE:
        return {"settings": list(settings)}
    given = [*settings, f"{FOLDERS[command]}={start}"] if start else list(settings)
    cfg = compose(command, given, ready=False, made=False)
    known = {*COMMANDS[command].sections, *GROUPS, "model"}
    for key, _, value in (item.partition("=") for item in settings):
        if key.partition(".")[0] not in known:
            raise ConfigError(key, value, f"r1 {command} does not read it", "leave it out of the arm")
    default = flat(to_dict(Config()))
    sections = [name for name in COMMANDS[command].sections if name not in _NOT_HASHED]
    values = flat({name: to_dict(getattr(cfg, name)) for name in sections})
    return {
        key: value
        for key, value in values.items()
        if value != default.get(key) and key.rpartition(".")[2] not in _NOT_RESULTS
    }


def _hash(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:10]
