"""Where a model or a set comes from: parents, data, settings, commit. A lineage.json lies beside each of them.

It holds the lineages of the parents, too, so that the way back to the base is known where their folders are gone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError, R1Error
from infra.files import write_json
from infra.tracking import git_state

if TYPE_CHECKING:
    from experiments.config import Config

FILE = "lineage.json"
UNKNOWN = "imported"
"The stage of a model that says nothing of itself: one from elsewhere."
ACCEPTS = {
    "cold_start": ("pretrain",),
    "reasoning": ("cold_start", "sft", "distill"),
    "rejection": ("zero", "reasoning", "all_scenarios"),
    "sft": ("pretrain", "cold_start", "distill"),
    "all_scenarios": ("sft",),
    "distill": ("pretrain",),
}
"Whose models a stage starts from (R1 §2.3, §2.4); one from elsewhere is taken on trust."
NOT_TOLD = ("checkpoint", "data", "zero", "helpful", "harmless", "save_every", "evaluate_every")
NOT_TOLD += ("micro_batch_tokens", "rollout_rows")
"Settings that name a parent, which is told apart, or that change no result."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """One model or set, and where it comes from."""

    stage: str
    "The stage that made it."
    path: str
    "Its folder or file, as it was written."
    seed: int = 0
    commit: str = "unknown"
    "Commit of the code."
    dirty: bool = False
    "Whether the code differed from the commit."
    created: str = ""
    data: dict[str, str] = field(default_factory=dict)
    "What was read besides the parents: name -> SHA-256."
    settings: dict[str, Any] = field(default_factory=dict)
    "The settings that decide the result."
    parents: "tuple[Lineage, ...]" = ()
    id: str = ""
    "Hash of all that decides the result: the same inputs, the same id."

    @property
    def sources(self) -> tuple[Any, ...]:
        """What it is made from, whatever the settings."""
        return self.stage, self.seed, self.data, [parent.id for parent in self.parents]

    def tags(self) -> dict[str, str]:
        """For MLflow."""
        told = {"lineage": self.id, "parents": ", ".join(f"{p.stage} {p.id} {p.path}" for p in self.parents)}
        return told | {f"data_{name}": value for name, value in self.data.items()}

    def keep(self, folder: Path) -> None:
        """Write lineage.json into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))


def born(
    stage: str,
    folder: Path,
    *,
    seed: int,
    settings: dict[str, Any],
    parents: tuple[Lineage, ...] = (),
    data: dict[str, str] | None = None,
) -> Lineage:
    """The lineage of what a stage is about to make in `folder`."""
    told = {name: _told(value) for name, value in settings.items()}
    identity = [stage, seed, told, data or {}, [parent.id for parent in parents]]
    return Lineage(
        stage=stage,
        path=str(folder),
        seed=seed,
        **git_state(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=data or {},
        settings=told,
        parents=parents,
        id=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12],
    )


def _told(value: Any) -> Any:
    """Settings without those that do not tell."""
    return {k: _told(v) for k, v in value.items() if k not in NOT_TOLD} if isinstance(value, dict) else value


def read(folder: Path) -> Lineage | None:
    """The lineage.json of a model, a run or a checkpoint; None where there is none."""
    folder = Path(folder)
    places = (folder, folder / "model", folder.parent) if folder.is_file() else (folder, folder / "model")
    if folder.parent.name == "checkpoints":
        places = (folder.parent.parent,)
    path = next((place / FILE for place in places if (place / FILE).is_file()), None)
    if path is None:
        return None
    try:
        return _from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise R1Error(f"{path}: cannot be read ({error}); remove it, or make the model again") from None


def _from_dict(stored: dict[str, Any]) -> Lineage:
    return Lineage(**stored | {"parents": tuple(_from_dict(parent) for parent in stored["parents"])})


def of(path: Path) -> Lineage:
    """The lineage of a model's folder, a run, a checkpoint or a set; of what brings none, what can be seen of it."""
    path = Path(path)
    found = read(path)
    if found is not None:
        return replace(found, path=str(path))
    if not path.exists():
        raise R1Error(f"{path}: is not there; give a run, a checkpoint, a model's folder or a set")
    card = _json(path / "card.json")  # the released base has one
    run = _json(path / "run.json") or _json(path.parent / "run.json")
    stage = (
        "pretrain" if card else run.get("tags", {}).get("stage") or _json(path / "meta.json").get("stage") or UNKNOWN
    )
    known = card or run
    return Lineage(
        stage=stage,
        path=str(path),
        seed=known.get("seed", 0),
        commit=known.get("commit", "unknown"),
        dirty=known.get("dirty", False),
        id=fingerprint(path),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(path: Path) -> str:
    """A name for a folder or file without lineage: its files' names, sizes and first MiB, hashed."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                digest.update(f"{file.name} {file.stat().st_size}\n".encode() + opened.read(2**20))
    return digest.hexdigest()[:12]


def require(stage: str, key: str, path: Path, accepted: tuple[str, ...] = ()) -> Lineage:
    """The lineage of what a stage is to start from. Raises ConfigError where that is of the wrong kind.

    accepted: the stages that may have made it, where it is not the model that the stage trains.
    """
    found = of(path)
    accepted = accepted or ACCEPTS[stage]
    if found.stage not in (*accepted, UNKNOWN):
        makers = " or ".join(f"r1 {name}" for name in accepted)
        raise ConfigError(
            key, path, f"is what r1 {found.stage} made", f"r1 {stage} takes a model of {makers} here: give one"
        )
    return found


def show(cfg: "Config") -> None:
    """`r1 lineage`: from the checkpoint back to its base."""
    print(tree(of(Path(cfg.lineage.checkpoint))))


def tree(lineage: Lineage, depth: int = 0) -> str:
    """A line or two for each ancestor, further back further in."""
    indent = "    " * depth
    commit = lineage.commit[:10] + ("+changes" if lineage.dirty else "")
    lines = [f"{indent}{lineage.stage}  {lineage.path}  id {lineage.id}  seed {lineage.seed}  commit {commit}"]
    lines += [f"{indent}    data {name} {value[:12]}" for name, value in lineage.data.items()]
    changed = lineage.created and f"{indent}    made {lineage.created}"
    return "\n".join([*lines, *([changed] if changed else []), *(tree(p, depth + 1) for p in lineage.parents)])
