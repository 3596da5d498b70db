"""A Python that keeps its names from cell to cell, in the same sandbox as every other program of a model.

Tools live outside: a cell calls them by name, with arguments of JSON's types, over a pipe. Nothing that comes out of
the pipe is more than data: a name that is no tool's is refused, arguments are handed to the tool as they are, and a
limit on cells, calls, time and output ends the session.
"""

import inspect
import json
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, SandboxError
from rl.sandbox.config import SandboxConfig
from rl.sandbox.runner import START_S, Cell, CellLost, parsed_line

SOURCE = Path(__file__).with_name("session_cell.py")
CODE_CHARACTERS = 100_000
"A longer cell is refused unread."
SAYS = 1 << 20
"Bytes that may come out during a cell, the calls of tools among them."


@dataclass(kw_only=True, slots=True)
class SessionConfig:
    """Limits of a session, beside those of every program."""

    cells: int = 20
    "Cells that may be run."
    tool_calls: int = 50
    "Calls of tools, of all cells together."
    cell_s: float = 20.0
    "Seconds of one cell by the clock, its tools included."

    def __post_init__(self) -> None:
        for key, least, usual in (("cells", 1, 20), ("tool_calls", 0, 50)):
            if getattr(self, key) < least:
                raise ConfigError(f"session.{key}", getattr(self, key), "nothing could be run", f"set {usual}")
        if not 0 < self.cell_s < 86_400:
            raise ConfigError("session.cell_s", self.cell_s, "is no time for a cell", "set 20")


class ToolError(Exception):
    """A tool says no; the text is for the one who called it."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a cell did. Strings in it are a stranger's."""

    printed: str = ""
    "What it printed, cut at a limit."
    value: Any = None
    "Of its last line where that is an expression, or of final_answer(); of JSON's types."
    error: str = ""
    "Why it failed; empty where it did not."
    final: bool = False
    "Whether it gave a final answer."


class Session:
    """Starts its sandbox with the first cell. Raises SandboxError where code cannot be shut in on this machine."""

    def __init__(
        self,
        tools: Mapping[str, Callable[..., Any]],
        cfg: SessionConfig | None = None,
        limits: SandboxConfig | None = None,
    ) -> None:
        """tools: called here, outside; what they return has to be of JSON's types; ToolError is told to the cell."""
        self.tools, self.cfg = dict(tools), cfg or SessionConfig()
        self.limits = limits or SandboxConfig(workers=1, cpu_s=30)
        self.cells = self.tool_calls = 0
        self._cell: Cell | None = None
        self._lines: list[bytes] = []
        "What has come and was not looked at, newest first; the line that is not whole is in _part."
        self._part, self._room = b"", SAYS

    def run(self, code: str) -> CellResult:
        """Run a cell after those before it; after one that ended the sandbox, names are gone."""
        if self.cells >= self.cfg.cells:
            return CellResult(error=f"the limit of {self.cfg.cells} cells is reached; nothing more is run")
        if len(code) > CODE_CHARACTERS:
            return CellResult(error=f"a cell may have {CODE_CHARACTERS} characters")
        self.cells += 1
        try:
            if self._cell is None:
                self._start()
            return self._talk(code)
        except _Ended as ended:
            self.close()
            return CellResult(error=f"{ended}; all names are lost")
        except CellLost as error:
            self.close()
            raise SandboxError(f"a sandbox has ended before it ran anything: {error}; see r1 doctor") from None
        except BaseException:  # Ctrl-C, or a tool of ours that is broken
            self.close()
            raise

    def close(self) -> None:
        """End it; the next cell would start anew."""
        if self._cell is not None:
            self._cell.stop()
            os.close(self._input)
            os.close(self._report)
            self._cell = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        cell = Cell(self.limits)
        cell.wait_ready()
        job = {"source": SOURCE.read_text(), "stdin": "", "function": "", "calls": []}
        job_file, nowhere = os.memfd_create("job"), os.open(os.devnull, os.O_WRONLY)
        their_input, self._input = os.pipe()
        self._report, their_report = os.pipe()
        self._cell, self._lines, self._part, self._room = cell, [], b"", SAYS
        with os.fdopen(job_file, "wb", closefd=False) as file:
            file.write(json.dumps(job).encode())
        os.lseek(job_file, 0, os.SEEK_SET)
        try:
            cell.begin([job_file, nowhere, their_report, their_input])
        finally:
            for descriptor in (job_file, nowhere, their_report, their_input):
                os.close(descriptor)
        os.set_blocking(self._input, False)
        deadline = time.monotonic() + START_S
        first = self._line(deadline)  # the cell's word, before any program is there
        if first[0] != "compiled":
            self.close()
            raise SandboxError(f"a sandbox could not shut a program in: {str(first[-1])[:300]}; see r1 doctor")
        self._say(deadline, "tools", sorted(self.tools))
        if self._line(deadline)[0] != "ready":
            raise SandboxError("a session of the sandbox did not start; see r1 doctor")

    def _talk(self, code: str) -> CellResult:
        deadline = time.monotonic() + self.cfg.cell_s
        self._room = SAYS
        self._say(deadline, "cell", self.cells, code)
        while True:
            line = self._line(deadline)
            if line[0] == "done" and len(line) == 6 and line[1] == self.cells:
                _, _, printed, value, error, final = line
                kept = self.limits.output_kib << 10
                return CellResult(str(printed)[:kept], value, str(error)[:1000], final is True)
            if line[0] != "tool" or len(line) != 4:
                continue  # a cell's own scribbling
            self._say(deadline, *self._tool(*line[1:]))

    def _tool(self, name: Any, arguments: Any, named: Any) -> tuple[str, Any]:
        """Call a tool; -> ("value", what it returned) or ("error", why not)."""
        if not isinstance(name, str) or name not in self.tools:
            return "error", "there is no such tool"
        if not isinstance(arguments, list) or not isinstance(named, dict):
            return "error", f"{name}: arguments cannot be read"
        if self.tool_calls >= self.cfg.tool_calls:
            return "error", f"the limit of {self.cfg.tool_calls} calls of tools is reached"
        self.tool_calls += 1
        try:
            given = inspect.signature(self.tools[name]).bind(*arguments, **named)
        except TypeError as error:
            return "error", f"{name}: {error}"
        try:
            return "value", self.tools[name](*given.args, **given.kwargs)
        except ToolError as error:
            return "error", f"{name}: {error}"

    def _line(self, deadline: float) -> list:
        """The next line that is a list. Raises _Ended where the program has ended, is late or says too much."""
        while True:
            while self._lines:
                line = parsed_line(self._lines.pop())
                if line is not None and isinstance(line[0], str):
                    return line
            wait_s = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._report, self._cell.control], [], [], wait_s)
            if not ready:
                raise _Ended(f"it took longer than {self.cfg.cell_s:g} s")
            chunk = os.read(self._report, 65536) if self._report in ready else b""
            if not chunk:
                raise _Ended("it ended the interpreter, or took too much memory or processor time")
            self._room -= len(chunk)
            if self._room < 0:
                raise _Ended("it said too much")
            *self._lines, self._part = (self._part + chunk).split(b"\n")
            self._lines.reverse()

    def _say(self, deadline: float, *what: Any) -> None:
        """Write a line; a session that does not read is waited for until the deadline, and no longer."""
        text = json.dumps(what).encode() + b"\n"
        while text:
            _, ready, _ = select.select([], [self._input], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Ended(f"it took longer than {self.cfg.cell_s:g} s")
            try:
                text = text[os.write(self._input, text[:65536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Ended("it ended the interpreter, or took too much memory or processor time") from None


class _Ended(Exception):
    """The program of a session is no more, or has to end."""
