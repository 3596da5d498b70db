"""What runs inside bubblewrap: a Python that waits for programs, and gives each a fork of itself with nothing in it.

It is started by rl/sandbox/bubblewrap.py from its text, so it imports the standard library only. Each program has its
own process namespace, in which it is alone, its own empty folder /tmp, no capability, the limits it was told and the
system-call filter; its fork is made before the cell has seen anything of it. The cell itself never reads a program, so
none is left in its memory for the next.

Messages on the control socket, JSON: in {"id", "limits"} with three descriptors (job, stdout, report) and, where the
program is spoken to while it runs, a fourth (its input); {"kill": id}; out {"ready"}, and for each program {"id",
"status", "cpu_s", "peak_kib"}.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 0x4000, 0x40000
PR_SET_SECCOMP, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 22, 4, 38, 47
SECCOMP_MODE_FILTER, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
CAPABILITY_VERSION = 0x20080522
JOB, STDOUT, REPORT, STDIN = 3, 1, 4, 0
"Descriptors of a program, besides 2 (nowhere)."
PRELOADED = (
    "__future__ array bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum "
    "fractions functools heapq io itertools math numbers operator queue random re statistics string struct textwrap "
    "threading time traceback types typing"
).split()
"Imported once for all programs; others are imported by who needs them."

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object) -> None:
    """A C function that answers -1 where it fails. Raises OSError."""
    if getattr(libc, name)(*args) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def serve(control: socket.socket, program_filter: bytes) -> None:
    """Run one program after another until the other side is gone."""
    for name in PRELOADED:
        __import__(name)
    own_namespace = os.pidfd_open(os.getpid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    gc.collect()
    gc.freeze()
    gc.disable()  # the cell makes no cycles, and a collection would copy pages in each fork
    control.send(b'{"ready": true}')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # until here: what a failed start says
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 4096, 4)
        if not text:
            return
        message = json.loads(text)
        if "kill" in message:  # it had ended by itself
            continue
        call("unshare", CLONE_NEWPID)  # for children; back to our own below
        pid = os.fork()
        if pid == 0:
            control.close()
            start(descriptors, message["limits"], program_filter)
        call("setns", own_namespace, CLONE_NEWPID)
        for descriptor in descriptors:
            os.close(descriptor)
        status, usage = wait(pid, control)
        report = {"id": message["id"], "status": status, "cpu_s": usage.ru_utime + usage.ru_stime}
        control.send(json.dumps(report | {"peak_kib": usage.ru_maxrss}).encode())


def wait(pid: int, control: socket.socket) -> tuple[int, resource.struct_rusage]:
    """Until the program has ended, or any word from the other side, which ends it. -> wait status, usage."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(control, select.POLLIN)
    if any(descriptor != ended for descriptor, _ in poll.poll()):
        control.recv(4096)
        os.kill(pid, signal.SIGKILL)
    os.close(ended)
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def start(descriptors: list[int], limits: dict[str, int], program_filter: bytes) -> None:
    """In the fork: shut in, then run the program. Never returns."""
    try:
        os.setsid()  # a signal to its process group, kill(0, ...), would pass the walls of a process namespace
        for wanted, given in zip((JOB, STDOUT, REPORT, STDIN), place(descriptors), strict=False):
            os.dup2(given, wanted)
        os.closerange(REPORT + 1, 1024)
        shut_in(limits)
        with os.fdopen(JOB, "rb") as file:
            job = json.load(file)
        standard_input(None if len(descriptors) > 3 else job["stdin"])
        give_up_rights(limits, program_filter)
    except BaseException as error:  # not the program's fault
        os.write(REPORT, json.dumps(["cell", repr(error)]).encode() + b"\n")
        os._exit(1)
    try:
        run(job)
    finally:
        os._exit(1)


def place(descriptors: list[int]) -> list[int]:
    """Copies of the descriptors above those that they are to become."""
    import fcntl

    return [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16) for descriptor in descriptors]


def shut_in(limits: dict[str, int]) -> None:
    """A folder of its own, empty, that ends with the program."""
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    options = f"size={limits['disk_bytes']},nr_inodes={limits['files']},mode=0700"
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())
    os.chdir("/tmp")


def standard_input(text: str | None) -> None:
    """What it reads on descriptor 0: a file in memory, so that no one has to feed it; None: what it was given."""
    if text is not None:
        descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.dup2(descriptor, STDIN)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", errors="surrogatepass", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogatepass", closefd=False)
    sys.__stdin__, sys.__stdout__ = sys.stdin, sys.stdout


def give_up_rights(limits: dict[str, int], program_filter: bytes) -> None:
    """Limits, no capabilities, the filter: in this order, as each takes away what the next would need no more."""
    for name, value in {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: limits["threads"] + 4,  # bubblewrap, the cell and this process are counted, too
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,
    }.items():
        resource.setrlimit(name, (value, value))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    program = Program(len(program_filter) // 8, program_filter)
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def run(job: dict) -> None:
    """Compile the program and say so, then run it as a script, or call its function. Never returns.

    Lines on the report, JSON: first ["compiled", ""] or ["syntax", text] (or ["cell", text], where the cell itself has
    failed), which the program has had no chance to write;
    then [i, "value", value] or [i, "error", text] for call i, and ["error", text] where it fails. After the first, all
    may have been written by the program.
    """
    import atexit
    import random
    import threading
    import types

    encode, write, leave, flush = json.dumps, os.write, os._exit, sys.stdout.flush
    finish_threads, finish = threading._shutdown, atexit._run_exitfuncs

    def say(*what: object) -> None:
        line = encode(what).encode() + b"\n"
        while line:
            line = line[write(REPORT, line) :]

    try:
        code = compile(job["source"], "program.py", "exec", dont_inherit=True)
    except BaseException as error:
        say("syntax", describe(error))
        leave(1)
    say("compiled", "")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv, sys.path = ["program.py"], [path for path in sys.path if path]
    random.seed(0)  # the same program does the same twice
    gc.unfreeze()
    gc.enable()
    status = 0
    try:
        exec(code, module.__dict__)
        if job["function"]:
            function = find(module, job["function"])
            for i, arguments in enumerate(job["calls"]):
                try:
                    say(i, "value", function(*arguments))
                except BaseException as error:
                    say(i, "error", describe(error))
        else:
            finish_threads()
            finish()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        say("error", describe(error))
        status = 1
    flush()
    leave(status & 0xFF)


def find(module: object, name: str) -> object:
    """The program's function, or the method of its class Solution."""
    if hasattr(module, name):
        return getattr(module, name)
    return getattr(module.Solution(), name)


def describe(error: BaseException) -> str:
    """ValueError: no such thing (line 3)."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:300]}{f' (line {line})' if line else ''}"


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), bytes.fromhex(sys.argv[2]))
