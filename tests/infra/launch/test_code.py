"""What code a job gets: the commit, or the files as they are, and never something between."""

import subprocess
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.launch.code import snapshot
from infra.launch_config import Code


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", "-C", folder, *who, *args], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One committed file, one that git ignores."""
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("ignored\n")
    (folder / "ignored").write_text("big")
    (folder / "file").write_text("committed")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def content(folder: Path, tree: str) -> dict[str, str]:
    return {name: git(folder, "show", f"{tree}:{name}") for name in git(folder, "ls-tree", "--name-only", tree).split()}


def test_a_clean_tree_is_packaged_by_its_commit(repository: Path) -> None:
    for code in Code:
        found = snapshot(code, repository)
        assert (found.commit, found.dirty) == (git(repository, "rev-parse", "HEAD"), False)
        assert content(repository, found.tree)["file"] == "committed"


@pytest.mark.parametrize("change", ["edited", "new", "staged", "removed"])
def test_a_dirty_tree_is_refused_or_packaged_as_it_is(change: str, repository: Path) -> None:
    name = "file" if change in ("edited", "removed") else "more"
    if change == "removed":
        (repository / name).unlink()
    else:
        (repository / name).write_text("changed")
    if change == "staged":
        git(repository, "add", "-A")
    before = git(repository, "status", "--porcelain")

    with pytest.raises(ConfigError, match=f"launch.code=commit: {name} differ.*launch.code=tree"):
        snapshot(Code.commit, repository)
    found = snapshot(Code.tree, repository)

    expected = {".gitignore": "ignored", "file": "committed", name: "changed"}
    if change == "removed":
        del expected["file"]
    assert found.dirty and content(repository, found.tree) == expected
    assert git(repository, "status", "--porcelain") == before


def test_many_changes_are_counted(repository: Path) -> None:
    for number in range(9):
        (repository / f"new{number}").touch()
    with pytest.raises(ConfigError, match="and 6 more"):
        snapshot(Code.commit, repository)


def test_without_a_repository_of_its_own_there_is_nothing_to_package(repository: Path, tmp_path: Path) -> None:
    inside = repository / "released"
    inside.mkdir()
    for folder in (tmp_path, inside):
        with pytest.raises(ConfigError, match="no git repository"):
            snapshot(Code.commit, folder)
