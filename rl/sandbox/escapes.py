"""The escape suite: runs rl/sandbox/attempts.py in a real sandbox, and says from outside which of them got through."""

import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import psutil

from infra.errors import SandboxError
from rl.sandbox.attempts import ATTEMPTS, PRELUDE, Attempt
from rl.sandbox.config import SandboxConfig
from rl.sandbox.judge import Case, Submission, judge
from rl.sandbox.runner import GRACE_S, Ending, Program, Run, Sandbox

LIMITS = SandboxConfig(memory_mib=256, cpu_s=1, wall_s=3.0, workers=1)
"Of the suite: one cell, so that programs follow each other in it."
REFUSALS = (
    "OSError PermissionError FileNotFoundError FileExistsError BlockingIOError ProcessLookupError NotADirectoryError "
    "BrokenPipeError MemoryError RecursionError gaierror ValueError"
).split()
"Errors that say no. ValueError is setrlimit's, for a limit that only root may raise, and that of overlong numbers."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt."""

    name: str
    "The attempt's."
    escaped: bool
    "Whether it got through, or harmed what came after it."
    how: str
    "What happened, in a line; what the program said in it is a stranger's text."

    def __str__(self) -> str:
        return f"{'OUT' if self.escaped else 'ok':>3}  {self.name}: {self.how.encode('unicode_escape').decode()[:160]}"


@dataclass(frozen=True, slots=True)
class Outside:
    """What lies outside, to be found by who gets there."""

    folder: Path
    "All may read and write it."
    names: dict[str, str]
    "What the attempts' $NAMES stand for."
    touched: Callable[[], str]
    "What was reached since the last call; empty: nothing."


def run_all(seen: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Run every attempt; seen is told of each. Raises SandboxError where there is no sandbox."""
    with outside() as world, Sandbox(LIMITS) as sandbox:
        sandbox.run(Program(""))
        usual = _processes()
        outcomes = []
        for attempt in ATTEMPTS:
            outcomes.append(_outcome(attempt, sandbox, world, usual))
            seen(outcomes[-1])
        return outcomes


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """For JSON: how many attempts, how many escaped, and each by its name."""
    by_name = {outcome.name: {"escaped": outcome.escaped, "how": outcome.how} for outcome in outcomes}
    return {"attempts": len(outcomes), "escaped": sum(o.escaped for o in outcomes), "by_name": by_name}


@contextmanager
def outside() -> Iterator[Outside]:
    """A secret that everybody may read, and servers that note who calls."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outside-")))
        folder.chmod(0o777)
        secret = folder / "secret"
        secret.write_text(f"TOKEN-{secrets.token_hex(8)}")
        abstract = f"outside-{secrets.token_hex(8)}"
        servers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        servers += [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in (1, 2)]
        for server, address in zip(servers, (str(folder / "socket"), "\0" + abstract, ("127.0.0.1", 0)), strict=False):
            server.bind(address)
            server.listen()
        port = servers[2].getsockname()[1]
        servers[3].bind(("127.0.0.1", port))
        try:
            six = socket.create_server(("::1", port), family=socket.AF_INET6)
            servers.append(stack.enter_context(six))
        except OSError:
            pass  # a machine without IPv6 cannot be reached by it
        for server in servers:
            server.setblocking(False)
        (folder / "socket").chmod(0o777)
        names = {
            "SECRET": str(secret),
            "FOLDER": str(folder),
            "SOCKET": str(folder / "socket"),
            "ABSTRACT": abstract,
            "TCP": str(port),
            "PID": str(os.getpid()),
            "PROJECT": __file__,
            "MEMORY": str(LIMITS.memory_mib),
            "DISK": str(LIMITS.disk_mib),
            "THREADS": str(LIMITS.threads),
        }
        text = secret.read_text()

        def touched() -> str:
            if {path.name for path in folder.iterdir()} != {"secret", "socket"} or secret.read_text() != text:
                return "the folder outside has changed"
            for server in servers:
                try:
                    (server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()[0].close())
                    return "a server outside was reached"
                except BlockingIOError:
                    continue
            return ""

        yield Outside(folder, names, touched)


def source(attempt: Attempt, world: Outside, code: str | None = None) -> str:
    """The program of an attempt."""
    return PRELUDE + Template(attempt.code if code is None else code).safe_substitute(world.names)


def _outcome(attempt: Attempt, sandbox: Sandbox, world: Outside, usual: int) -> Outcome:
    """Run it, what follows it, and a plain program after both."""
    if attempt.cheats:
        cases = [Case(f"TOKEN-{secrets.token_hex(8)}", arguments=[1])]
        verdict = judge(sandbox, [Submission(source(attempt, world), cases, function="f")])[0]
        _check(attempt, verdict.error)
        problem = "it passed a case" if any(verdict.passed) else ""
        how = f"no case passed; {verdict.ending.value}"
    else:
        run = sandbox.run(Program(source(attempt, world)))
        problem, how = _escape(run, world), _refusal(attempt, run)
        if not problem and attempt.then:
            second = sandbox.run(Program(source(attempt, world, attempt.then)))
            problem = _escape(second, world) or ("" if second.ending is Ending.ok else f"the next: {second.error}")
            how = f"{how}; the next saw nothing of it"
    after = sandbox.run(Program("print(sum(map(int, input().split())))", stdin="20 25"))
    if not problem and after.stdout != "45\n":
        problem = f"the program after it no longer works: {after.ending.value} {after.error}"
    if not problem and _processes() != usual:
        problem = "processes are left behind"
    return Outcome(attempt.name, bool(problem), problem or how)


def _escape(run: Run, world: Outside) -> str:
    if "ESCAPED" in run.stdout:
        return run.stdout[:200].strip()
    if run.wall_s > LIMITS.wall_s + GRACE_S:
        return f"it ran for {run.wall_s:.1f} s"
    if run.peak_mib > LIMITS.memory_mib:
        return f"it took {run.peak_mib:.0f} MiB"
    return world.touched()


def _refusal(attempt: Attempt, run: Run) -> str:
    """Why it got nowhere."""
    _check(attempt, run.error)
    return run.error or run.ending.value


def _check(attempt: Attempt, error: str) -> None:
    """Raise SandboxError for an attempt that tried nothing, as its own mistake has ended it."""
    if error and error.split(":")[0] not in REFUSALS:
        raise SandboxError(f"the attempt '{attempt.name}' is broken: {error}")


def _processes() -> int:
    """Processes below this one."""
    return len(psutil.Process().children(recursive=True))
