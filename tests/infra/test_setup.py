"""scripts/setup.sh where something is missing: it says what to do. That it works, .ci/run shows."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SYSTEM_312 = [path for path in ("/usr/local/bin/python3.12", "/usr/bin/python3.12") if Path(path).exists()]
without_312 = pytest.mark.skipif(bool(SYSTEM_312), reason=f"{SYSTEM_312} cannot be hidden from the script")


HASHED = re.compile(r"^([a-z0-9._-]+)==([^ \n]+)((?:[^\n]*\\\n)(?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n)+)", re.M)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that set-up needs, and an empty folder for PATH."""
    for name in ("scripts/setup.sh", "requirements/base.txt", "requirements/dev.txt", "pyproject.toml", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(tree: Path, name: str, script: str) -> None:
    """A program on the PATH of the set-up."""
    path = tree / "bin" / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def setup(tree: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it with nothing but tree/bin on the PATH, from another folder."""
    known = {"HOME": str(tree / "home"), "PATH": str(tree / "bin")} | env
    command = ["/bin/bash", str(tree / "scripts/setup.sh"), *args]
    return subprocess.run(command, env=known, cwd="/", capture_output=True, text=True, timeout=60)


@without_312
def test_no_python_at_all_is_explained(tree: Path) -> None:
    done = setup(tree)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Install Python 3.12" in done.stderr and "UV_PYTHON=" in done.stderr


@without_312
def test_python_too_old_and_no_download_is_explained(tree: Path) -> None:
    program(tree, "python3", "exit 1")  # as an older one answers the question for 3.12
    program(tree, "uv", "exit 2")
    done = setup(tree)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Python 3.12 is needed" in done.stderr and "UV_PYTHON=" in done.stderr


@without_312
def test_a_shim_that_finds_no_python_is_passed_over(tree: Path) -> None:
    program(tree, "python3.12", 'echo "pyenv: python3.12: command not found" >&2; exit 127')
    program(tree, "uv", "exit 2")
    done = setup(tree)
    assert "Python 3.12 is needed" in done.stderr and "pyenv:" not in done.stderr


def test_uv_that_cannot_be_installed_is_explained(tree: Path) -> None:
    program(tree, "rm", 'exec /bin/rm "$@"')
    program(tree, "python", 'case "$*" in *version_info*) exit 0;; *) exit 1;; esac')  # 3.12, but no network
    done = setup(tree, UV_PYTHON=str(tree / "bin/python"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install uv==" in done.stderr
    assert not (tree / ".uv").exists()


def test_an_interrupted_installation_is_explained_and_not_taken_for_done(tree: Path) -> None:
    for name in ("rm", "cat", "cksum"):
        program(tree, name, f'exec "{shutil.which(name)}" "$@"')
    program(tree, "python", "exit 0")
    program(tree, "uv", '[ "$1" = venv ]')
    for _ in range(2):
        done = setup(tree, UV_PYTHON=str(tree / "bin/python"))
        assert done.returncode == 1
        assert "run it again" in done.stderr


def test_what_is_set_up_is_left_alone_until_the_lock_changes(tree: Path) -> None:
    for name in ("rm", "cat", "cksum", "mkdir", "ln"):
        program(tree, name, f'exec "{shutil.which(name)}" "$@"')
    program(tree, "python", 'echo "Python 3.12.0"')
    made = f"mkdir -p .venv/bin; ln -s {tree}/bin/python .venv/bin"
    program(tree, "uv", f'echo "$@" >> {tree}/calls; [ "$1" != venv ] || {{ {made}; }}')

    def calls(kind: str) -> int:
        (tree / "calls").write_text("")
        assert setup(tree, kind, UV_PYTHON=str(tree / "bin/python")).returncode == 0
        return len((tree / "calls").read_text().splitlines())

    assert calls("base") == 4  # venv, requirements, the project, --version
    assert calls("base") == 0
    assert calls("dev") == 3  # on top of base
    assert calls("dev") == calls("base") == 0
    with open(tree / "requirements/dev.txt", "a") as lock:
        lock.write("\nmore==1\n")
    assert calls("base") == 0
    assert calls("dev") == 3
    assert not re.search("uninstall|sync", (tree / "calls").read_text())


def test_an_unknown_kind_is_refused(tree: Path) -> None:
    assert "choose base, dev, agents, gpu or vllm" in setup(tree, "all").stderr


def test_locks_are_hashed_name_no_index_and_agree() -> None:
    pins = {}
    for kind in ("base", "dev", "agents", "gpu", "vllm"):
        text = (PROJECT / f"requirements/{kind}.txt").read_text()
        assert "://" not in text and "--index-url" not in text
        blocks = HASHED.findall(text)
        assert len(blocks) == len(re.findall(r"^[a-z0-9]", text, re.M)), "a requirement has no hash"
        pins[kind] = {(name, version) for name, version, _ in blocks}
    assert pins["base"] <= pins["gpu"] and pins["base"] <= pins["agents"] <= pins["dev"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[=<>\[ ]", text)[0] for text in project["dependencies"]}
    assert named <= {name for name, _ in pins["base"]}


def make(*args: str) -> str:
    """What make prints."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(["make", *args], cwd=PROJECT, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["reproduce", "quick", "test", "dashboard", "mlflow", "bench"])
def test_targets_set_up_first_and_pass_settings_on(target: str) -> None:
    printed = make("-n", target, "ARGS=some.key=1")
    assert printed.index("scripts/setup.sh") < printed.index("some.key=1")


def test_compiled_modules_are_kept_whatever_the_environment_says() -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in make("--eval", "show: ; @env", "show")


def test_vllm_gets_an_environment_of_its_own_without_the_project(tree: Path) -> None:
    shutil.copy(PROJECT / "requirements/vllm.txt", tree / "requirements")
    for name in ("rm", "cat", "cksum"):
        program(tree, name, f'exec "{shutil.which(name)}" "$@"')
    program(tree, "python", 'case "$*" in *version_info*) exit 0;; esac')
    made = f"mkdir -p .venv-vllm/bin; ln -s {tree}/bin/python .venv-vllm/bin"
    program(tree, "mkdir", f'exec "{shutil.which("mkdir")}" "$@"')
    program(tree, "ln", f'exec "{shutil.which("ln")}" "$@"')
    program(tree, "uv", f'echo "$@" >> {tree}/calls; [ "$1" != venv ] || {{ {made}; }}')
    done = setup(tree, "vllm", UV_PYTHON=str(tree / "bin/python"))
    assert done.returncode == 0, done.stderr
    calls = (tree / "calls").read_text().splitlines()
    assert sum("requirements/vllm.txt" in call and ".venv-vllm/bin/python" in call for call in calls) == 1
    assert not any("--editable" in call for call in calls) and not (tree / ".venv").exists()
    assert setup(tree, "vllm", UV_PYTHON=str(tree / "bin/python")).stdout == ""  # nothing is left to do
