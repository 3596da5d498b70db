"""lineage.json of the runs as one graph: which stage made which model from which. Pure but for reading the files.

Read here, not by experiments/lineage.py, because what other machines wrote is shown, not trusted: a file that is no
lineage is left out and said.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dashboard.store import Run

FILES = ("lineage.json", "model/lineage.json")
MAX_DEPTH = 20
BLUE = "#1F83C4"
"Text that is read on white and on black."
MAX_BYTES = 2_000_000


@dataclass(slots=True)
class Model:
    """One model or set; found by its id in whichever files name it."""

    id: str
    stage: str
    path: str
    seed: str = "-"
    commit: str = "-"
    created: str = "-"
    parents: list[str] = field(default_factory=list)
    run: str | None = None
    "The key of the run that made it, where that is in the store."


def read(runs: dict[str, Run]) -> tuple[dict[str, Model], list[str]]:
    """(id -> model, of all runs; what could not be read)."""
    found: dict[str, Model] = {}
    problems = []
    for key, run in runs.items():
        for name in FILES if run.folder else ():
            path = run.folder / name
            if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
                continue
            try:
                own = _add(found, _json(path), 0)
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                problems.append(f"{key}: {name} can't be read (half-written?).")
                continue
            found[own].run = key
            break
    return found, problems


def _json(path: Path) -> dict:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("too large")
    return json.loads(path.read_bytes())


def _add(found: dict[str, Model], told: dict, depth: int) -> str:
    """Take in a lineage with its ancestors; -> its id."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    name = str(told["id"])[:64]
    parents = [_add(found, parent, depth + 1) for parent in told["parents"]]
    kept = found.setdefault(name, Model(name, str(told["stage"])[:64], str(told["path"])[:300]))
    kept.seed, kept.commit = str(told.get("seed", "-"))[:32], str(told.get("commit", "-"))[:10]
    kept.created = str(told.get("created") or "-")[:32]
    kept.parents = kept.parents or parents
    return name


def dot(models: dict[str, Model], chosen: str | None = None) -> str:
    """The graph for Graphviz, parents above. Runs of the store have a solid frame and are links; others are dashed."""
    names = {name: f"n{index}" for index, name in enumerate(models)}
    lines = ["digraph {", 'bgcolor="transparent"; rankdir=TB; nodesep=0.3; ranksep=0.45;']
    lines.append('node [shape=box, fontname="sans-serif", fontsize=11, color="#888888", fontcolor="#888888"];')
    lines.append('edge [color="#888888"];')
    for name, model in models.items():
        label = f"{model.stage}\\n{_quoted(model.run or model.path)}\\n{_quoted(name)}".replace(
            model.stage, _quoted(model.stage), 1
        )
        look = 'style="rounded"' if model.run else 'style="rounded,dashed"'
        if model.run:
            look += f', color="{BLUE}", fontcolor="{BLUE}", URL="./?run={quote(model.run, safe="")}", target="_self"'
            look += f', tooltip="{_quoted(model.run)}"'
        if chosen is not None and model.run == chosen:
            look += ", penwidth=3"
        lines.append(f'{names[name]} [label="{label}", {look}];')
    lines += [f"{names[p]} -> {names[name]};" for name, model in models.items() for p in model.parents if p in names]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    """Text inside a DOT string: what is not a plain character becomes a question mark."""
    cut = text if len(text) <= 44 else f"{text[:20]}…{text[-22:]}"
    return "".join(c if c.isalnum() or c in " ./_-:+…" else "?" for c in cut)


def ancestors(models: dict[str, Model], name: str) -> list[str]:
    """A model's ids back to its base, nearest first."""
    order, waiting = [], list(models[name].parents)
    while waiting:
        parent = waiting.pop(0)
        if parent in models and parent not in order:
            order.append(parent)
            waiting += models[parent].parents
    return order
