"""What this machine can run, and why not (`r1 doctor`); what a run says about its machine."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
_NOBODY = 65534


@dataclass(kw_only=True, slots=True)
class DoctorConfig:
    """What `r1 doctor` looks at."""

    sandbox: bool = False
    "Try to get out of the code sandbox instead, in every way of rl/sandbox/attempts.py, and say what came of each."
    json: bool = False
    """Print one JSON object; of the sandbox: attempts, escaped, and what came of each by its name; of a run: what is
    foretold, refused and warned of."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool | None
    "True: can be used; False: something to mend; None: only a fact, or not needed here."
    value: str
    remedy: str = ""
    "What to do, where there is something to do."


def report(folder: Path = Path(".")) -> list[Check]:
    """All checks; folder: where runs are written. Takes some seconds (imports torch, starts a sandbox)."""
    return [*_machine(folder), *_accelerators(), _slurm(), _sandbox(), *_tools()]


def text(checks: list[Check]) -> str:
    """The report as a table for the terminal."""
    width = max(len(check.name) for check in checks)
    marks = {True: "ok", False: "NO", None: "-"}
    lines = [f"{marks[c.ok]:>2}  {c.name:<{width}}  {c.value}{f'; {c.remedy}' if c.remedy else ''}" for c in checks]
    return "\n".join(lines)


def as_dict(checks: list[Check]) -> dict[str, dict[str, Any]]:
    """The report for JSON, by name."""
    return {check.name: {key: value for key, value in asdict(check).items() if key != "name"} for check in checks}


def peak_memory_gib() -> float:
    """Most resident memory so far in GiB: of this process or of a finished child, whichever is more."""
    own = _first(Path("/proc/self/status"), "VmHWM").split()  # getrusage's own figure counts the parent's, too
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own[0]), children) * 1024 / GIB


def system_info() -> dict[str, str]:
    """What goes with every run: CPU, cores, memory, GPUs, Python, torch. Imports nothing heavy."""
    total, _ = _memory()
    gpus = _answer(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return {
        "cpu": _cpuinfo("model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{total / GIB:.1f}",
        "gpus": ", ".join(gpus.splitlines()) if gpus else "none",
        "python": platform.python_version(),
        "torch": version("torch") or "absent",
        "megatron-core": version("megatron-core") or "absent",
    }


def machine() -> str:
    """The machine in a line, for a benchmark's result."""
    info = system_info()
    size = f"{info['cores']} cores, {info['memory_gib']} GiB"
    return f"{info['cpu']}, {size}, GPUs: {info['gpus']}, torch {info['torch']}"


def fp8_lacks() -> dict[str, str]:
    """What each carrier of FP8 products (model.fp8) lacks on this machine: empty where it runs. Imports torch.

    {"te": "a GPU of sm90 or later (Hopper)", "torch": "a GPU of sm90 (Hopper)", "emulated": ""}
    """
    import torch

    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    toolkit = tuple(int(part) for part in (torch.version.cuda or "0").split("."))
    engine = importlib.util.find_spec("transformer_engine") is not None
    recent = engine and tuple(int(n) for n in re.findall(r"\d+", version("transformer-engine") or "0")[:2]) >= (2, 3)
    cuda = (toolkit >= (12, 9), "a torch built for CUDA 12.9 or later")  # cuBLAS knows block scales from there on
    needs = {
        "te": [(major >= 9, "a GPU of sm90 or later (Hopper)"), cuda, (recent, "transformer-engine 2.3 or later")],
        "torch": [
            (major == 9, "a GPU of sm90 (Hopper)"),
            cuda,
            (hasattr(torch.nn.functional, "scaled_mm"), "torch 2.10 or later"),
        ],
        "emulated": [],
    }
    return {name: ", ".join(what for there, what in wanted if not there) for name, wanted in needs.items()}


def compute_capability() -> str:
    """Of the first GPU, as in "9.0"; empty without one. Asks the driver's program, so that CUDA is not started."""
    return _answer(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).partition("\n")[0]


def version(package: str) -> str | None:
    """Installed version, without importing the package; None when absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine(folder: Path) -> list[Check]:
    cores, (total, free) = len(os.sched_getaffinity(0)), _memory()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free
    flags = set(_cpuinfo("flags").split())
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    enough, memory_remedy = free >= 6 * GIB, "scale=tiny needs 6 GiB: end other programs"
    roomy, disk_remedy = disk >= 5 * GIB, "runs keep checkpoints: free some space, or set run.dir on another disk"
    right = sys.version_info[:2] == (3, 12)
    return [
        Check("python", right, platform.python_version(), "" if right else "use Python 3.12: make setup finds it"),
        Check("cores", cores >= 2, str(cores), "" if cores >= 2 else "times in the README are for 2 cores"),
        Check("cpu", None, f"{_cpuinfo('model name') or platform.machine()} ({', '.join(fast) or 'no wide vectors'})"),
        Check("memory", enough, f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free", "" if enough else memory_remedy),
        Check("disk", roomy, f"{disk / GIB:.0f} GiB free", "" if roomy else disk_remedy),
    ]


def _accelerators() -> list[Check]:
    import torch  # seconds, so only here

    megatron = version("megatron-core")
    checks = [
        Check("torch", True, torch.__version__),
        Check("megatron-core", megatron is not None, megatron or "absent", "" if megatron else "run make setup"),
    ]
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
    names = ", ".join(f"{d.name} (sm{d.major}{d.minor}, {d.total_memory / GIB:.0f} GiB)" for d in devices)
    checks.append(Check("cuda", True if cuda else None, names or "no device: everything runs on the CPU"))

    engine = version("transformer-engine")
    absent = "absent (only GPUs use it)" if not cuda else "absent: Megatron's own modules are used"
    install = "make setup GPU=1 compiles it (minutes; nvcc and a C++ compiler)" if cuda and not engine else ""
    checks.append(Check("transformer-engine", bool(engine) if cuda else None, engine or absent, install))

    checks.append(_fp8())
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if cuda and torch.distributed.is_nccl_available() else ""
    checks.append(Check("nccl", True if nccl else None, nccl or "not used: ranks talk by gloo"))
    return checks


def _fp8() -> Check:
    """Which carriers of model.fp8 run here. The emulation shows what FP8 does to a loss, and saves no time."""
    lacks = fp8_lacks()
    runs = [name for name, lack in lacks.items() if not lack]
    fast = [name for name in runs if name != "emulated"]
    parts = [f"{', '.join(runs)}{'' if fast else ' (its numbers, not its speed)'}"]
    parts += [f"{name} needs {lack}" for name, lack in lacks.items() if lack]
    return Check("fp8", True if fast else None, "; ".join(parts))


def _slurm() -> Check:
    absent = [name for name in ("sbatch", "srun") if not shutil.which(name)]
    if absent:
        return Check("slurm", None, f"{' and '.join(absent)} not found", "needed only on a cluster")
    partitions = _answer(["sinfo", "--noheader", "--format=%P %a %D nodes"])
    if not partitions:
        return Check("slurm", False, "sbatch found, but sinfo does not answer", "see whether slurmctld runs")
    return Check("slurm", True, "; ".join(partitions.splitlines()))


def _sandbox() -> Check:
    """Whether bubblewrap can really shut a process in (namespaces may be off), as a user without rights."""
    bwrap = shutil.which("bwrap")
    if not bwrap:
        return Check("sandbox", False, "no bubblewrap: code tasks cannot be scored", "apt install bubblewrap")
    unshared = [f"--unshare-{what}" for what in ("user", "ipc", "pid", "net", "uts", "cgroup-try")]
    command = [bwrap, *unshared, "--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--uid", str(_NOBODY), "--gid", str(_NOBODY), "--clearenv", "--ro-bind", "/usr", "/usr"]
    command += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"]
    command += ["--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "/usr/bin/true"]
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, **user)
        problem = "" if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        remedy = "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
        return Check("sandbox", False, f"bubblewrap does not work: {problem}", remedy)
    return Check("sandbox", True, _answer([bwrap, "--version"]) or "bubblewrap")


def _tools() -> list[Check]:
    uv, browser = shutil.which("uv"), shutil.which("chromium")
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    checks = [
        Check("uv", True if uv else None, uv or "not on PATH", "" if uv else "make setup installs its own"),
        Check("c compiler", True if compiler else None, compiler or "none: training on CPU goes on in torch, slower"),
        Check("browser", True if browser else None, browser or "no chromium: browser tests are skipped"),
    ]
    for package in ("mlflow", "streamlit", "nemo-run"):
        found = version(package)
        checks.append(Check(package, found is not None, found or "absent", "" if found else "run make setup"))
    return checks


def _memory() -> tuple[int, int]:
    """Total and free bytes, within the limit of the container's control group if there is one."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        root = Path("/sys/fs/cgroup")
        if (root / limit).exists() and (value := (root / limit).read_text().strip()).isdigit():
            total = min(total, int(value))
            free = min(free, max(0, int(value) - int((root / used).read_text())))
    return total, free


def _cpuinfo(key: str) -> str:
    return _first(Path("/proc/cpuinfo"), key)


def _first(path: Path, key: str) -> str:
    """The first value of a key in one of the kernel's files of "key: value" lines; empty when there is none."""
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _answer(command: list[str]) -> str:
    """What a program prints; empty when it is absent, fails or takes more than 10 s."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
