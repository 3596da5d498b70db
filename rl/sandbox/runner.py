"""Runs programs that a model wrote, each shut in, a few milliseconds each (K §2.3.5's code sandbox).

A cell is a bubblewrap with a Python in it (rl/sandbox/cell.py), which forks for each program. What a program may do is
decided by the kernel: namespaces, limits, a system-call filter. What it did is decided here, outside: it is given
inputs and never an expected output.
"""

import atexit
import functools
import json
import os
import queue
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from infra.errors import SandboxError
from rl.sandbox import bubblewrap
from rl.sandbox.config import SandboxConfig

START_S, GRACE_S = 20.0, 10.0
"How long a cell may take to start, and to end a program that it was told to end."


class Ending(Enum):
    """How a run ended."""

    ok = "ok"
    syntax = "does not compile"
    error = "ended with an error"
    crashed = "crashed"
    cpu = "took too much processor time"
    wall = "took too long"
    output = "printed too much"


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: a script that reads stdin, or a function (of the script or of its class Solution) that is called.

    Example: Program("def f(x): return x + 1", function="f", calls=[[1], [2]])
    """

    source: str
    "Python."
    stdin: str = ""
    "What a script reads."
    function: str = ""
    "Name of the function that is called; empty: the script is all."
    calls: Sequence[Sequence[Any]] = ()
    "Arguments of each call, of JSON's types."


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did. Strings in it are a stranger's."""

    ending: Ending
    "ok only where it ended by itself, without an error."
    compiled: bool
    "Whether it compiles; told before the program's first line runs."
    stdout: str = ""
    "What it printed."
    values: dict[int, Any] = field(default_factory=dict)
    "What its calls returned, by their number; a call that failed is not in it."
    error: str = ""
    "What it said of its failure, cut short; for people to read, decides nothing."
    cpu_s: float = 0.0
    "Processor seconds."
    wall_s: float = 0.0
    "Seconds by the clock."
    peak_mib: float = 0.0
    "Most memory at a time."


class Sandbox:
    """A pool of cells. run() and run_all() may be called from several threads.

    Raises SandboxError where a program cannot be shut in on this machine.
    """

    def __init__(self, cfg: SandboxConfig | None = None) -> None:
        self.cfg = cfg or SandboxConfig()
        self._idle: queue.LifoQueue[Cell] = queue.LifoQueue()
        self._cells = [Cell(self.cfg) for _ in range(self.cfg.number)]  # they start beside each other
        self._threads = ThreadPoolExecutor(len(self._cells), thread_name_prefix="sandbox")
        try:
            for cell in self._cells:
                cell.wait_ready()
                self._idle.put(cell)
        except BaseException:
            self.close()
            raise
        atexit.register(self.close)

    def run(self, program: Program) -> Run:
        """Run one program. Raises SandboxError where no cell can be had any more."""
        cell = self._idle.get()
        try:
            try:
                return cell.run(program)
            except CellLost:  # somebody ended it; a program cannot
                cell.restart()
            try:
                return cell.run(program)
            except CellLost as error:
                raise SandboxError(f"a sandbox ended twice while it ran a program: {error}; see r1 doctor") from None
        finally:
            self._idle.put(cell)

    def run_all(self, programs: Sequence[Program]) -> list[Run]:
        """Run programs, as many at a time as there are cells; -> in their order."""
        return list(self._threads.map(self.run, programs))

    def close(self) -> None:
        """End all cells."""
        atexit.unregister(self.close)
        self._threads.shutdown()
        for cell in self._cells:
            cell.stop()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@functools.cache
def shared(cfg: SandboxConfig) -> Sandbox:
    """The one pool of this process with these limits. Raises SandboxError as Sandbox does."""
    return Sandbox(cfg)


class CellLost(Exception):
    """A cell has ended, or does not answer."""


class Cell:
    """One bubblewrap, one program at a time. For Sandbox and Session alone."""

    def __init__(self, cfg: SandboxConfig) -> None:
        self.cfg, self.runs = cfg, 0
        self._lock = threading.Lock()  # of the process: stop() may come from another thread
        self._start()

    def _start(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = subprocess.Popen(
                    bubblewrap.command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={},
                )
        except BaseException:
            self.control.close()
            raise
        self.control.settimeout(START_S)

    def wait_ready(self) -> None:
        """Until it takes programs, which are then measured by the clock alone."""
        try:
            ready = self.control.recv(4096)
        except OSError:
            ready = b""
        if not ready:
            self.process.kill()
            error = bubblewrap.explain(self.process)
            self.stop()
            raise error
        self.process.stderr.close()

    def restart(self) -> None:
        """Another in its place."""
        self.stop()
        self._start()
        self.wait_ready()

    def stop(self) -> None:
        """End it, and whatever runs in it: the last process in a namespace takes all with it."""
        with self._lock:
            self.control.close()
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()

    def begin(self, descriptors: list[int]) -> None:
        """Have a program started on the job, stdout, report and, where it is spoken to, input. Raises CellLost."""
        message = json.dumps({"id": self.runs, "limits": self.cfg.limits()}).encode()
        try:
            socket.send_fds(self.control, [message], descriptors)
        except OSError as error:
            raise CellLost(str(error)) from None

    def run(self, program: Program) -> Run:
        """Hand the program in, gather what comes out, end it at a limit."""
        self.runs += 1
        job = {"source": program.source, "stdin": program.stdin, "function": program.function, "calls": program.calls}
        files = os.memfd_create("job"), *os.pipe(), *os.pipe()
        job_file, stdout, their_stdout, report, their_report = files
        try:
            with os.fdopen(job_file, "wb", closefd=False) as file:
                file.write(json.dumps(job).encode())
            os.lseek(job_file, 0, os.SEEK_SET)
            start = time.monotonic()
            try:
                self.begin([job_file, their_stdout, their_report])
            finally:
                for descriptor in (job_file, their_stdout, their_report):
                    os.close(descriptor)
            printed, lines, stopped, ended = self._gather(stdout, report, start + self.cfg.wall_s)
        finally:
            os.close(stdout)
            os.close(report)
        return _judge(program, printed, lines, stopped, ended, time.monotonic() - start, self.cfg)

    def _gather(
        self, stdout: int, report: int, deadline: float
    ) -> tuple[bytes, bytes, Ending | None, dict[str, float]]:
        """-> stdout, report, the limit at which it was ended, the cell's last word. Raises CellLost."""
        texts = {stdout: bytearray(), report: bytearray()}
        stopped: Ending | None = None
        ended: dict[str, float] | None = None
        room = self.cfg.output_kib << 10
        with selectors.DefaultSelector() as selector:
            for source in (stdout, report, self.control):
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    if stopped is not None or ended is not None:
                        raise CellLost("it does not answer")
                    stopped = self._end(Ending.wall)
                    deadline = time.monotonic() + GRACE_S
                for key, _ in ready:
                    if key.fileobj is self.control:
                        ended = self._hear()
                        selector.unregister(self.control)
                        deadline = time.monotonic() + GRACE_S  # no one can write to the pipes any more
                        continue
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        selector.unregister(key.fd)
                        continue
                    texts[key.fd] += chunk[: room + 1 - len(texts[key.fd])]  # the other one may still tell something
                    if stopped is None and len(texts[key.fd]) > room:
                        stopped = Ending.output if ended else self._end(Ending.output)
                        deadline = time.monotonic() + GRACE_S
        return bytes(texts[stdout][:room]), bytes(texts[report][:room]), stopped, ended or {}

    def _end(self, why: Ending) -> Ending:
        try:
            self.control.send(json.dumps({"kill": self.runs}).encode())
        except OSError as error:
            raise CellLost(str(error)) from None
        return why

    def _hear(self) -> dict[str, float]:
        try:
            text = self.control.recv(4096)
        except OSError as error:
            raise CellLost(str(error)) from None
        if not text:
            raise CellLost("it has ended")
        ended = json.loads(text)
        if ended["id"] != self.runs:  # of a run that was interrupted here, by Ctrl-C
            raise CellLost("it speaks of another program")
        return ended


def _judge(
    program: Program,
    printed: bytes,
    report: bytes,
    stopped: Ending | None,
    ended: dict[str, float],
    wall_s: float,
    cfg: SandboxConfig,
) -> Run:
    """What happened, from what the kernel and the cell say; of the report, the first line is the cell's."""
    lines = [parsed_line(text) for text in report.split(b"\n")[: len(program.calls) + 3]]
    first, later = lines[0], [line for line in lines[1:] if line]
    if first and first[0] == "cell":
        raise SandboxError(f"a sandbox could not shut a program in: {str(first[1])[:300]}; see r1 doctor")
    compiled = bool(first) and first[0] == "compiled"
    values: dict[int, Any] = {}
    errors = [str(first[-1])] if first and not compiled else []
    for line in later:
        if len(line) == 3 and line[1] == "value" and type(line[0]) is int and 0 <= line[0] < len(program.calls):
            values.setdefault(line[0], line[2])
        elif line[-2:-1] == ["error"]:
            errors.append(str(line[-1]))
    status = int(ended["status"])
    if stopped is not None:
        ending = stopped
    elif os.WIFSIGNALED(status):
        out_of_time = os.WTERMSIG(status) == signal.SIGKILL and ended["cpu_s"] > cfg.cpu_s - 0.5
        ending = Ending.cpu if out_of_time else Ending.crashed
    elif not compiled:
        ending = Ending.syntax
    else:
        ending = Ending.ok if os.WEXITSTATUS(status) == 0 else Ending.error
    return Run(
        ending=ending,
        compiled=compiled,
        stdout=printed.decode(errors="replace"),
        values=values,
        error=errors[0][:400] if errors else "",
        cpu_s=ended["cpu_s"],
        wall_s=wall_s,
        peak_mib=ended["peak_kib"] / 1024,
    )


def parsed_line(text: bytes) -> list | None:
    """A line of the report; None for what is none. JSON is parsed, and nothing in it can be large."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, list) and len(line) >= 2 else None
