"""Small programs run in the sandbox a second, by the pool, against a bubblewrap and a Python started for each.

Each program is another, and solves a sum from its input. The peer has walls alone: no system-call filter, no limits.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from experiments.bench.result import Result
from rl.sandbox.config import SandboxConfig
from rl.sandbox.runner import Program, Sandbox

ROUNDS, RUNS, PEER_RUNS = 5, 400, 60


def run() -> Result:
    """Both with a program at a time on each core. Raises SandboxError where there is no sandbox."""
    sources = [f"a, b = map(int, input().split())\nprint(a + b + {i})" for i in range(RUNS)]
    with Sandbox(SandboxConfig()) as sandbox, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:

        def ours() -> float:
            start = time.perf_counter()
            runs = sandbox.run_all([Program(source, stdin="20 22") for source in sources])
            seconds = time.perf_counter() - start
            assert [run.stdout for run in runs] == [f"{42 + i}\n" for i in range(RUNS)]
            return RUNS / seconds

        def theirs() -> float:
            start = time.perf_counter()
            printed = list(threads.map(_alone, sources[:PEER_RUNS]))
            seconds = time.perf_counter() - start
            assert printed == [f"{42 + i}\n" for i in range(PEER_RUNS)]
            return PEER_RUNS / seconds

        ours(), theirs()
        pairs = [(ours(), theirs()) for _ in range(ROUNDS)]
        latency = sorted(sandbox.run(Program(source, stdin="20 22")).wall_s for source in sources)
    return Result.of(
        "sandbox_runs",
        "runs/s",
        *map(list, zip(*pairs, strict=True)),
        "bubblewrap and Python started for each run",
        workers=sandbox.cfg.number,
        latency_ms={"median": 1e3 * latency[RUNS // 2], "p90": 1e3 * latency[RUNS * 9 // 10]},
    )


def _alone(source: str) -> str:
    """A program of ours, run as the shell would, in bubblewrap's walls."""
    walls = [f"--unshare-{what}" for what in ("user", "ipc", "pid", "net", "uts")]
    walls += ["--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--tmpfs", "/tmp"]
    command = [shutil.which("bwrap"), *walls, sys._base_executable, "-I", "-S", "-c", source]
    return subprocess.run(command, input="20 22", capture_output=True, text=True, check=True).stdout
