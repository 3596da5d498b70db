"""What a claim is: arms that differ in one thing, quantities, and a rule that gives the verdict.

A claim is a YAML file in conf/claims; the rule is fixed before its result is seen. A changed rule is a new claim.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiments.config import CONF
from infra.errors import ConfigError

FOLDER = CONF / "claims"
TESTS = ("t", "bootstrap")
MIN_SEEDS = 5
"Seeds without which there is no verdict, unless nothing in it is drawn at random."
_TERM = re.compile(r"^(\w+)\.(\S+)$")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(kw_only=True, slots=True, frozen=True)
class Arm:
    """One way of training: a command with what differs from the scale's settings, from a model or another arm's."""

    command: str
    "A command of r1 that trains or makes a set; evaluate: only questions are asked; plan and decode: no training."
    start: str = ""
    "base (the scale's model), another arm, or empty: from nothing."
    settings: tuple[str, ...] = ()
    "Settings, key=value; {arm} stands for another arm's run folder of the same seed, {base} for the base."
    evaluate: bool = True
    "Whether the model answers the held-out questions afterwards; a set or a reward model does not."
    asked: tuple[str, ...] = ()
    "Further settings of that evaluation."
    fixed: bool = False
    "Whether its result depends on no seed: one run then serves all seeds."

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms it builds on."""
        named = [self.start, *(name for item in self.settings for name in _PLACE.findall(item))]
        return tuple(dict.fromkeys(name for name in named if name and name != "base"))


@dataclass(kw_only=True, slots=True, frozen=True)
class Rule:
    """A number for each seed, and the bound that the interval over seeds has to clear. Without a bound it is told only.

    The number is `of`, minus `minus`, or over `over`, or its difference to `percent_of` in percent of that. Each is
    `arm.quantity`, or several joined by ` + `, or the paper's number.
    """

    name: str
    "What the number is, in words."
    of: str
    "arm.quantity (experiments/claims/quantities.py)."
    minus: str = ""
    over: str = ""
    percent_of: str = ""
    above: float | None = None
    "Reproduced where the interval lies above."
    below: float | None = None
    "Reproduced where the interval lies below."
    within: float | None = None
    "Reproduced where the interval lies between -within and within: equal for all purposes."

    @property
    def bound(self) -> str:
        """In words; empty where it is told only."""
        if self.within is not None:
            return f"within {self.within:g} of 0"
        side = ("above", self.above) if self.above is not None else ("below", self.below)
        return "" if side[1] is None else f"{side[0]} {side[1]:g}"

    def terms(self) -> Iterator[tuple[str, str]]:
        """(arm, quantity) of all that it reads."""
        for text in (self.of, self.minus, self.over, self.percent_of):
            yield from terms(text)


def constant(text: str) -> float | None:
    """The number that stands in the place of quantities; None where there is none."""
    try:
        return float(text)
    except ValueError:
        return None


def terms(text: str) -> list[tuple[str, str]]:
    """ "a.x + b.y" -> [("a", "x"), ("b", "y")]; none of a number. Raises ConfigError for anything else."""
    found: list[tuple[str, str]] = []
    if constant(text) is not None:
        return found
    for part in text.split(" + ") if text else ():
        match = _TERM.match(part.strip())
        if not match:
            raise ConfigError("claim.rules", part, "is no arm.quantity", "write it as in zero.eval/pass_at_1")
        found.append((match[1], match[2]))
    return found


@dataclass(kw_only=True, slots=True, frozen=True)
class Claim:
    """A sentence of a paper, and how it is tested."""

    id: str
    title: str
    "The sentence."
    source: str
    "Paper and section."
    paper: str
    "The paper's figure."
    arms: dict[str, Arm]
    rules: tuple[Rule, ...]
    "The first is shown in the table; the verdict is that of all which have a bound."
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    test: str = "t"
    "The interval over seeds: t (Student's) or bootstrap (percentiles)."
    larger: str = ""
    "What scale would tell, where this one cannot."
    at: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    "By scale: arms with other settings there, as shapes of another network."
    note: str = ""
    "What is equal between the arms, and what is not."

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise ConfigError(f"{self.id}.test", self.test, "is no test", f"choose one of {', '.join(TESTS)}")
        if not any(rule.bound for rule in self.rules):
            raise ConfigError(f"{self.id}.rules", "", "nothing has a bound, so there is no verdict", "set above: 0")
        for name, arm in self.arms.items():
            for need in arm.needs:
                if need not in self.arms:
                    raise ConfigError(f"{self.id}.arms.{name}", need, "is no arm", "name one of the claim's, or base")
        for name in {name for arms in self.at.values() for name in arms}:
            if name not in self.arms:
                raise ConfigError(f"{self.id}.at", name, "is no arm", f"choose of {', '.join(self.arms)}")
        for rule in self.rules:
            bounds = [rule.above, rule.below, rule.within]
            if (
                len([b for b in bounds if b is not None]) > 1
                or bool(rule.minus) + bool(rule.over) + bool(rule.percent_of) > 1
            ):
                raise ConfigError(f"{self.id}.rules", rule.name, "has two bounds or two statistics", "set one")
            for arm, _ in rule.terms():
                if arm not in self.arms:
                    raise ConfigError(f"{self.id}.rules", arm, "is no arm", f"choose of {', '.join(self.arms)}")
        self.order()

    def order(self) -> list[str]:
        """Its arms, each behind those it builds on. Raises ConfigError for a circle."""
        done: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ConfigError(f"{self.id}.arms", name, "starts from itself", "break the circle")
            for need in self.arms[name].needs:
                visit(need, (*path, name))
            if name not in done:
                done.append(name)

        for name in self.arms:
            visit(name, ())
        return done


def load(path: Path) -> Claim:
    """A claim from its file. Raises ConfigError for an unknown key, a missing one, and a rule that cannot work."""
    raw = yaml.safe_load(path.read_text())
    arms = {name: _made(Arm, arm | _tuples(arm, "settings", "asked"), path) for name, arm in raw["arms"].items()}
    rules = tuple(_made(Rule, rule, path) for rule in raw["rules"])
    return _made(Claim, raw | {"arms": arms, "rules": rules} | _tuples(raw, "seeds"), path)


def _tuples(raw: dict[str, Any], *keys: str) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(raw[key]) for key in keys if key in raw}


def _made(kind: type, given: dict[str, Any], path: Path) -> Any:
    fields = dataclasses.fields(kind)
    for key in given:
        if key not in {f.name for f in fields}:
            raise ConfigError(path.name, key, "there is no such key", f"choose of {', '.join(f.name for f in fields)}")
    for f in fields:
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in given:
            raise ConfigError(path.name, f.name, "is not set", f"write {f.name}: ...")
    return kind(**given)


def load_all(folder: Path = FOLDER) -> dict[str, Claim]:
    """Every claim by its id, in the order of their numbers."""
    found = [load(path) for path in folder.glob("C*.yaml")]
    return {claim.id: claim for claim in sorted(found, key=lambda claim: int(claim.id[1:]))}


@dataclass(kw_only=True, slots=True, frozen=True)
class Scale:
    """Sizes of all arms at a scale, so that a claim says differences alone."""

    base: str
    "The model that arms start from."
    settings: dict[str, list[str]]
    "By command: its sizes."
    seconds: dict[str, float]
    "By command: what a run takes, estimated."


def load_scale(name: str, folder: Path = FOLDER) -> Scale:
    """A scale of conf/claims/scales.yaml. Raises ConfigError for another."""
    scales = yaml.safe_load((folder / "scales.yaml").read_text())
    if name not in scales:
        raise ConfigError("scale", name, "has no sizes for claims", f"choose one of {', '.join(scales)}")
    return _made(Scale, scales[name], folder / "scales.yaml")
