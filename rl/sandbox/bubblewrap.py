"""The command that shuts a cell in, and what is wrong where there is none."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from infra.errors import SandboxError
from rl.sandbox import seccomp

HERE = Path(__file__).parent
NOBODY = 65534
INSTALL = "install bubblewrap (apt install bubblewrap), and see r1 doctor"


def command(control: int) -> list[str]:
    """What starts a cell that listens on descriptor `control`. Raises SandboxError where there can be none."""
    if sys.platform != "linux":
        raise SandboxError(f"code is run on Linux only, in namespaces of its kernel; this is {sys.platform}")
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError(f"there is no bwrap on PATH, so code is not run at all: {INSTALL}")
    try:
        program_filter = seccomp.build()
    except KeyError:
        raise SandboxError(
            f"there is no system-call filter for {platform.machine()}, so code is not run: use x86_64 or aarch64"
        ) from None
    python, prefix = Path(os.path.realpath(sys._base_executable)), Path(os.path.realpath(sys.base_prefix))
    root = os.getuid() == 0
    source = Path("/mnt") if root else prefix  # what stage.py makes of it
    found = python.relative_to(prefix) if python.is_relative_to(prefix) else None
    if found is None:
        raise SandboxError(f"{python} is not below {prefix}: make the environment of a plain Python (make setup)")
    inside = [program, *_walls(), *_libraries()]
    for each in (Path(sys.platlibdir), Path("lib"), found):
        inside += ["--ro-bind-try", str(source / each), str(prefix / each)]
    packages = Path(sysconfig.get_path("stdlib", vars={"base": str(prefix), "installed_base": str(prefix)}))
    for name in ("site-packages", "dist-packages"):
        if (packages / name).is_dir():  # what others have installed there is no business of a program
            inside += ["--tmpfs", str(packages / name), "--remount-ro", str(packages / name)]
    inside += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", str(prefix / found), "-s", "-S", "-P", "-c"]
    inside += [(HERE / "cell.py").read_text(), str(control), program_filter.hex()]
    if root:
        return [sys.executable, "-I", "-S", str(HERE / "stage.py"), str(prefix), *inside]
    return inside


def _walls() -> list[str]:
    """Own users, processes, network, names; nothing of the environment; rights only to make each program's folder."""
    unshared = [f"--unshare-{what}" for what in ("user", "ipc", "pid", "net", "uts", "cgroup-try")]
    walls = [*unshared, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    walls += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    walls += ["--clearenv", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    walls += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"]
    for device in ("null", "zero", "urandom"):
        walls += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return walls


def _libraries() -> list[str]:
    """The system's libraries, read-only."""
    binds = ["--ro-bind", "/usr/lib", "/usr/lib", "--ro-bind-try", "/usr/lib64", "/usr/lib64"]
    for name in ("lib", "lib64"):
        path = Path("/") / name
        if path.is_symlink():
            binds += ["--symlink", os.readlink(path), str(path)]
        else:
            binds += ["--ro-bind-try", str(path), str(path)]
    return binds


def explain(process: subprocess.Popen) -> SandboxError:
    """What is wrong with a cell that has ended before it was ready."""
    said = process.stderr.read().decode(errors="replace").strip().splitlines() if process.stderr else []
    reason = said[-1] if said else f"it ended with status {process.wait()}"
    return SandboxError(
        f"bubblewrap does not work here, so code is not run at all: {reason}; allow user namespaces "
        "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a container: "
        "run it with them), or run on a machine that has them"
    )
