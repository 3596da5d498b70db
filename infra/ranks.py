"""The processes of a command: as a launcher started them, or this one as rank 0 and the others as its children."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from experiments.config import Config
from infra.errors import R1Error
from training.layout import check_world

PROJECT = Path(__file__).resolve().parents[1]
GRACE_S = 3.0
"Seconds that rank 0 has to report the same error itself, once another rank has died."
FINISH_S = 60.0
"Seconds that the other ranks have to end once rank 0 is done."
_PARENT = "R1_PARENT"
_PR_SET_PDEATHSIG = 1


def count(cfg: Config) -> int:
    """How many processes to start on this machine: parallel.nproc, or the scale's own number where that is 0."""
    if cfg.parallel.nproc:
        return cfg.parallel.nproc
    if cfg.scale in ("tiny", "small"):
        return min(2, len(os.sched_getaffinity(0)))
    return max(1, _gpus()) if cfg.scale == "gpu" else 1


def _gpus() -> int:
    """NVIDIA devices that this process may use, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])


def check_layout(cfg: Config, ranks: int) -> None:
    """Raise ConfigError where the layout does not fit this number of processes."""
    check_world(cfg.parallel, ranks)


def launched(env: MutableMapping[str, str] = os.environ) -> bool:
    """Whether torchrun or srun started this process as one of several; srun's names are mapped to torch's.

    A batch script's own shell is no rank, though SLURM sets SLURM_PROCID there: it lacks SLURM_STEP_ID.
    """
    if "RANK" in env:
        return True
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    if tasks < 2 or "SLURM_PROCID" not in env or "SLURM_STEP_ID" not in env:
        return False
    per_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    env |= {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": per_node[0] if per_node else "1",
    }
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", "localhost"))
    env.setdefault("MASTER_ADDR", first_host(nodes))
    # One port for all ranks of a job, another for another job on the same node.
    env.setdefault("MASTER_PORT", str(20_000 + int(env.get("SLURM_JOB_ID", "0")) % 20_000))
    return True


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes. Example: first_host("gpu[07-09,12],cpu1") == "gpu07"."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def die_with_parent() -> bool:
    """In a rank started by Siblings: end with the process that started it, however that ends. -> Whether it is one."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return False
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before prctl was there to notice
        raise SystemExit(1)
    return True


class Siblings:
    """The other ranks of this command while the context lasts.

    Signals come to rank 0 alone (the children have a session of their own) and the loop makes all ranks agree. What a
    child writes is kept, and shown if it dies; then this process ends too, as its collectives would wait for ever.
    """

    def __init__(self, ranks: int, command: list[str]) -> None:
        self.ranks, self.command = ranks, command
        self._children: list[subprocess.Popen[bytes]] = []
        self._said: list[IO[bytes]] = []
        self._done = threading.Event()

    def __enter__(self) -> "Siblings":
        if self.ranks == 1:
            return self
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        world = {
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_WORLD_SIZE": str(self.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        for rank in range(1, self.ranks):
            env = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            env |= {"PYTHONPATH": path, _PARENT: str(os.getpid())}
            said = tempfile.TemporaryFile()
            self._said.append(said)
            self._children.append(
                subprocess.Popen(
                    self.command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                )
            )
        os.environ |= world | {"RANK": "0", "LOCAL_RANK": "0"}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        orderly = kind is None or (isinstance(error, SystemExit) and not error.code)
        deadline = time.monotonic() + (FINISH_S if orderly else 0.0)
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def failure(self, wait_s: float = 0.0) -> tuple[int, str] | None:
        """(exit status, what happened) of the first rank that died, waiting that long for one to; None while all work.

        The status is 2 for an error that the user can mend, in the rank's own line; else 1, with what it wrote last.
        """
        deadline = time.monotonic() + wait_s
        while True:
            for rank, child in enumerate(self._children, start=1):
                if child.poll():
                    return self._describe(rank, child.returncode)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def _describe(self, rank: int, code: int) -> tuple[int, str]:
        said = self._said[rank - 1]
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        if code == 2 and lines:
            return 2, lines[-1]
        if code < 0:
            why = " (is memory short?)" if -code == signal.SIGKILL else ""
            killed = f"rank {rank} was killed by {signal.Signals(-code).name}{why}"
            return 1, f"{killed}; the same command goes on from the last checkpoint"
        return 1, "\n".join([*lines[-30:], f"rank {rank} ended with status {code}"])

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            if self.failure() is None:
                continue
            if not self._done.wait(GRACE_S):
                code, what = self.failure() or (1, "another rank died")
                print(f"\n{what}", file=sys.stderr, flush=True)
                for child in self._children:
                    child.kill()
                os._exit(code)  # the main thread waits in a collective that no one will join
            return


def free_port() -> int:
    """A port that nobody listens on, and that stays free until its rank 0 has imported torch and binds it.

    Not one of the kernel's own choice: those are given out again to whoever connects in the meantime.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise R1Error("no free port between 20000 and 32000 on this machine; end what holds them")
