"""How far a run came, from the end of its metrics.jsonl: a hundred runs are listed without reading them whole."""

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from dashboard.config_diff import setting

TAIL = 64 << 10
"Bytes from the end that are read for the last step and the rate."
SEARCHED = 1 << 20
"Bytes at either end in which an evaluation is looked for before a whole file is."
_PASS_AT_1 = re.compile(r"eval/(.+)/pass_at_1")
RL_STAGES = {"zero", "ppo", "reasoning", "all_scenarios", "mirror_descent"}


@dataclass(frozen=True, slots=True)
class Tail:
    """The last that a run logged; None is what it did not."""

    step: int | None = None
    tokens: float | None = None
    steps_per_s: float | None = None
    "Over the last lines."
    tokens_per_s: float | None = None
    pass_at_1: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    "task -> the last held-out value, with low and high of its 95 % interval."


def of(path: Path) -> Tail:
    """The tail of a metrics.jsonl; an empty one where there is no such file, or none that can be read."""
    try:
        stat = path.stat()
        return _of(str(path), stat.st_mtime_ns, stat.st_size)
    except OSError:
        return Tail()


@functools.lru_cache(maxsize=4000)
def _of(path: str, modified_ns: int, size: int) -> Tail:
    with open(path, "rb") as file:
        file.seek(max(0, size - SEARCHED))
        end = file.read()
        lines = end[-TAIL:].splitlines()
        records = [r for r in map(_record, lines if len(end) <= TAIL else lines[1:]) if r]
        measured = _last_evaluation(end) or _earlier_evaluation(file, size)
    steps = [r for r in records if "time/step_s" in r["metrics"]] or records  # not what was logged beside the steps
    if not steps:
        return Tail(pass_at_1=measured)
    first, last = steps[0], steps[-1]
    passed = _number(last.get("time"), 0.0) - _number(first.get("time"), 0.0)
    rates = {}
    if len(steps) > 1 and passed > 0:
        rates["steps_per_s"] = max(0.0, (last["step"] - first["step"]) / passed)
        rates["tokens_per_s"] = max(
            0.0, (_number(last.get("tokens"), 0.0) - _number(first.get("tokens"), 0.0)) / passed
        )
    return Tail(
        step=max(int(r["step"]) for r in records),
        tokens=_number(last.get("tokens"), None),
        pass_at_1=measured,
        **rates,
    )


def _earlier_evaluation(file, size: int) -> dict:
    """A run that evaluates does so from its start on: where the start has none either, the middle is not read."""
    file.seek(0)
    if size <= SEARCHED or not _last_evaluation(start := file.read(SEARCHED)):
        return {}
    for position in range(size - 2 * SEARCHED, 0, -SEARCHED):
        file.seek(position)
        if found := _last_evaluation(file.read(SEARCHED + TAIL)):
            return found
    return _last_evaluation(start)


def _last_evaluation(block: bytes) -> dict[str, tuple[float, float | None, float | None]]:
    place = block.rfind(b'/pass_at_1"')
    while place >= 0:
        start = block.rfind(b"\n", 0, place) + 1
        record = _record(block[start : block.find(b"\n", place)]) if b"\n" in block[place:] else None
        if record and (found := _pass_at_1(record["metrics"])):
            return found
        place = block.rfind(b'/pass_at_1"', 0, start)
    return {}


def _pass_at_1(metrics: dict) -> dict[str, tuple[float, float | None, float | None]]:
    found = {}
    for name, value in metrics.items():
        task = _PASS_AT_1.fullmatch(name)
        if task and _number(value, None) is not None:
            found[task[1]] = (float(value), *(_number(metrics.get(f"{name}_{end}"), None) for end in ("low", "high")))
    return found


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
        ok = isinstance(record["step"], int) and isinstance(record["metrics"], dict)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if ok else None


def _number(value: object, other: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else other


def progress(stage: str | None, config: dict, tail: Tail) -> tuple[float | None, float | None]:
    """(share that is done, seconds left); None where the configuration does not say how long the run is."""
    total, done, rate = None, None, None
    if stage in RL_STAGES:
        total, done, rate = _number(setting(config, "rl.steps"), None), tail.step, tail.steps_per_s
    elif stage == "pretrain":
        total, done, rate = _number(setting(config, "pretrain.tokens"), None), tail.tokens, tail.tokens_per_s
    if not total or done is None:
        return None, None
    share = min(1.0, done / total)
    return share, (total - done) / rate if rate and share < 1 else None
