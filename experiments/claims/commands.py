"""`r1 claim` runs claims, `r1 claims` shows the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import overrides
from experiments.claims import table
from experiments.claims.arms import Run, listed, runs_of
from experiments.claims.claim import Claim, load_all, load_scale
from experiments.claims.run import raw_path, run_all
from experiments.config import GROUPS, Config
from infra.errors import ConfigError
from infra.files import lock, write_text
from infra.progress import say
from infra.tracking import PROJECT

RESULTS = PROJECT / "experiments" / "results" / "claims"
_OWN = ("claim", "scale", "run", "tracking", "launch")


def claim(cfg: Config, given: Sequence[str]) -> int:
    """`r1 claim`; given: the settings as typed. Prints the verdicts; -> 1 where a run has failed."""
    further = _further(given)
    claims = _chosen(cfg.claim.id)
    scale = load_scale(cfg.scale)
    runs = {one.id: runs_of(one, cfg.scale, scale, cfg.claim.base, further) for one in claims}
    results, folder = _results(cfg, further), Path(cfg.claim.runs)
    order = sorted(claims, key=lambda one: _cost(one, runs[one.id], cfg))
    work: dict[tuple[str, int], tuple[Run, int]] = {}
    for one in order:
        for run, seed in listed(list(runs[one.id].values()), cfg.claim.seeds or one.seeds):
            work.setdefault((run.arm, seed), (run, seed))
    todo = list(work.values())
    if cfg.claim.dry_run:
        print(_plan(todo, results))
        return 0
    if cfg.claim.array:
        if cfg.run.seed >= len(todo):
            problem = f"there are {len(todo)} runs"
            raise ConfigError("run.seed", cfg.run.seed, problem, f"set launch.seeds from 0 to {len(todo) - 1}")
        run, seed = todo[cfg.run.seed]
        todo = listed([run], [seed])
    failed = run_all(todo, folder, results)
    rows = [table.entry(one, runs[one.id], results, cfg.scale, _command(one, cfg.scale)) for one in claims]
    if not cfg.claim.array:
        _merge(results, rows)
    print(json.dumps(rows, indent=1) if cfg.claim.json else table.text(rows))
    for label, why in failed.items():
        say(f"failed: {label}: {why}")
    return int(bool(failed))


def claims(cfg: Config) -> int:
    """`r1 claims`: the table that is there, or made anew from the raw results."""
    results = _results(cfg, ())
    if cfg.claim.rebuild:
        rows = rebuild(results, cfg.claim.base)
        if results == RESULTS:
            path = PROJECT / "README.md"
            write_text(path, table.written(path.read_text(), rows))
    path = results / "table.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in rows if row["scale"] == cfg.scale]
    if cfg.claim.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table.text(rows) if rows else "no results yet: r1 claim id=C1, or make claims")
    return 0


def rebuild(results: Path, base: str = "", scales: Sequence[str] = ("tiny", "small", "gpu")) -> list[dict[str, Any]]:
    """table.json from the raw results, whatever the runs' folders are; -> the rows of the first scale, all claims.

    Of the other scales, claims with any result.
    """
    rows, left = [], {path.name for path in results.glob("raw/*")}
    for name in scales:
        scale = load_scale(name)
        for one in load_all().values():
            runs = runs_of(one, name, scale, base)
            left -= {run.arm for run in runs.values()}
            there = any(raw_path(results, run, 0).parent.is_dir() for run in runs.values())
            if there or name == scales[0]:
                rows.append(table.entry(one, runs, results, name, _command(one, name)))
        if not left:
            break
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "table.json", json.dumps(rows, indent=1) + "\n")
    return [row for row in rows if row["scale"] == scales[0]]


def _merge(results: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of older ones in table.json; other processes may be at it, too."""
    path = results / "table.json"
    results.mkdir(parents=True, exist_ok=True)
    with lock(results / "table.lock", wait=True):
        old = json.loads(path.read_text()) if path.exists() else []
        new = {(row["id"], row["scale"]): row for row in [*old, *rows]}
        rows = sorted(new.values(), key=lambda row: (row["scale"], int(row["id"][1:])))
        write_text(path, json.dumps(rows, indent=1) + "\n")


def _further(given: Sequence[str]) -> list[str]:
    """Typed settings that are the stages'."""
    full = overrides.full(given, "claim", Config, GROUPS)
    return [item for item in full if item.partition("=")[0].partition(".")[0] not in _OWN]


def _results(cfg: Config, further: Sequence[str]) -> Path:
    if cfg.claim.results:
        return Path(cfg.claim.results)
    return Path(cfg.claim.runs) / "results" if further or cfg.claim.base else RESULTS


def _chosen(wanted: str) -> list[Claim]:
    known = load_all()
    names = list(known) if wanted == "all" else [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise ConfigError("claim.id", wanted, "names no claim", "set id=C2, or id=all")
    for name in names:
        if name not in known:
            raise ConfigError("claim.id", name, "is no claim", f"choose of {', '.join(known)}, or all")
    return [known[name] for name in names]


def _cost(one: Claim, runs: dict[str, Run], cfg: Config) -> float:
    """Seconds of the whole claim, estimated."""
    return sum(run.seconds for run, _ in listed(list(runs.values()), cfg.claim.seeds or one.seeds))


def _plan(work: Sequence[tuple[Run, int]], results: Path) -> str:
    lines, left = [], 0.0
    for index, (run, seed) in enumerate(work):
        done = raw_path(results, run, seed).exists()
        left += 0 if done else run.seconds
        cost = "done" if done else f"{run.seconds:.0f} s"
        lines.append(f"{index:>4}  {run.arm:<26} seed {seed}  {cost:>6}  {' '.join(run.settings)}")
    return "\n".join([*lines, f"{len(work)} runs, {left / 60:.0f} minutes to go"])


def _command(one: Claim, scale: str) -> str:
    return f"r1 claim id={one.id}" + ("" if scale == "tiny" else f" scale={scale}")
