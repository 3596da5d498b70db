"""What code a job runs: a tree of git, so that it can be had again, whatever happens to the files meanwhile."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError
from infra.launch_config import Code

PROJECT = Path(__file__).resolve().parents[2]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state of the repository."""

    commit: str
    "HEAD."
    dirty: bool
    "Whether the tree differs from it."
    tree: str
    "The git tree that is packaged."
    root: str
    "The repository."


def snapshot(code: Code, root: Path = PROJECT) -> Snapshot:
    """The tree to package. Raises ConfigError outside of git, and for code=commit where files differ from HEAD."""
    if not shutil.which("git"):
        raise ConfigError("launch.code", code.name, "there is no git here, which packs the code", "install git")
    try:
        commit, tree = _git(root, "rev-parse", "HEAD"), _git(root, "rev-parse", "HEAD^{tree}")
        changed = _git(root, "status", "--porcelain").splitlines()
        same = Path(_git(root, "rev-parse", "--show-toplevel")).resolve() == root.resolve()
    except subprocess.CalledProcessError:
        same = False
    if not same:
        problem = f"{root} is no git repository of its own, and jobs run what git has"
        raise ConfigError("launch.code", code.name, problem, f"git init {root}, and commit")
    if changed and code is Code.commit:
        names = ", ".join(line[3:] for line in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        problem = f"{names}{more} differ from the last commit, and the job would not see that"
        remedy = "commit, or set launch.code=tree to run the files as they are"
        raise ConfigError("launch.code", "commit", problem, remedy)
    if changed:
        tree = _tree_of_files(root)
    return Snapshot(commit, bool(changed), tree, str(root))


def _tree_of_files(root: Path) -> str:
    """A git tree of all files that git does not ignore, changed and new ones included; the index stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": f"{folder}/index"}
        _git(root, "read-tree", "HEAD", env=env)
        _git(root, "add", "--all", env=env)
        return _git(root, "write-tree", env=env)


def _git(root: Path, *args: str, env: dict[str, str] | None = None) -> str:
    command = ["git", "-C", str(root), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.rstrip()
