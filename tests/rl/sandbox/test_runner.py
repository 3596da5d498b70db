"""What programs do in the sandbox, and what they cannot: limits end them in time, and only them."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from infra.errors import ConfigError, SandboxError
from rl.sandbox import bubblewrap, runner, seccomp
from rl.sandbox.config import SandboxConfig
from rl.sandbox.runner import Ending, Program, Sandbox
from tests.sandbox import LIMITS


def test_a_script_reads_its_input_and_prints(sandbox):
    run = sandbox.run(Program("import sys\na, b = map(int, sys.stdin.read().split())\nprint(a + b)", stdin="20 22\n"))
    assert (run.ending, run.compiled, run.stdout, run.error) == (Ending.ok, True, "42\n", "")
    assert run.wall_s < LIMITS.wall_s and 0 < run.peak_mib < 256


@pytest.mark.parametrize(
    "read", ["input()", "sys.stdin.readline().strip()", "open(0).read()", "sys.stdin.buffer.read().decode()"]
)
def test_all_ways_to_read_work(sandbox, read):
    assert sandbox.run(Program(f"import sys\nprint({read})", stdin="κ€𝄞")).stdout.rstrip("\n") == "κ€𝄞"


def test_calls_return_json_values_and_a_failing_one_is_missing(sandbox):
    source = "def f(a, b=0):\n    print('noise')\n    return {'sum': a + b, 'pair': (a, b)}"
    run = sandbox.run(Program(source, function="f", calls=[[1, 2], ["x"], [2.5]]))
    assert run.values == {0: {"sum": 3, "pair": [1, 2]}, 2: {"sum": 2.5, "pair": [2.5, 0]}}
    assert run.error.startswith("TypeError: can only concatenate str") and "line 3" in run.error


def test_a_method_of_solution_can_be_called(sandbox):
    source = "class Solution:\n    def twice(self, x):\n        return 2 * x"
    assert sandbox.run(Program(source, function="twice", calls=[[4]])).values == {0: 8}


@pytest.mark.parametrize(
    ("source", "ending", "compiled"),
    [
        ("print(", Ending.syntax, False),
        ("\0", Ending.syntax, False),
        ("return 1", Ending.syntax, False),
        ("(" * 100_000, Ending.syntax, False),
        ("1 / 0", Ending.error, True),
        ("import sys; sys.exit(3)", Ending.error, True),
        ("import sys; sys.exit()", Ending.ok, True),
        ("import no_such_module", Ending.error, True),
        ("import os; os.abort()", Ending.crashed, True),
        ("import ctypes; ctypes.string_at(0)", Ending.crashed, True),
        ("x = 'x' * 10**9", Ending.error, True),
        ("import time; time.sleep(60)", Ending.wall, True),
        ("while True: print('x' * 1000)", Ending.output, True),
        ("import os\nwhile True: os.write(4, b'x' * 1000)", Ending.output, True),
        ("import os\nwhile True: os.fork()", Ending.error, True),
        ("open('a', 'w').write('x' * (5 << 20))", Ending.error, True),
    ],
    ids=range(16),
)
def test_every_way_to_end_has_its_name_and_comes_in_time(sandbox, source, ending, compiled):
    run = sandbox.run(Program(source))
    assert (run.ending, run.compiled) == (ending, compiled), run
    assert run.wall_s < LIMITS.wall_s + runner.GRACE_S
    assert len(run.stdout) <= LIMITS.output_kib << 10
    assert sandbox.run(Program("print(1)")).stdout == "1\n"


def test_an_endless_loop_ends_by_processor_time_however_busy_the_machine_is(sandbox):
    with Sandbox(SandboxConfig(cpu_s=1, wall_s=120, workers=1)) as patient:
        run = patient.run(Program("while True: pass"))
    assert run.ending is Ending.cpu and 0.9 < run.cpu_s < 2


def test_what_a_thread_does_counts_and_a_deep_recursion_in_it_works(sandbox):
    source = (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "threading.Thread(target=lambda: print(f(20_000))).start()"
    )
    assert sandbox.run(Program(source)).stdout == "20000\n"


def test_runs_are_the_same_whatever_ran_before_and_in_which_cell(sandbox):
    source = "import random\nprint(random.random(), hash('x'), list({'a', 'b', 'c', 'd'}))"
    runs = sandbox.run_all([Program(source)] * 8)
    assert len({run.stdout for run in runs}) == 1 and runs[0].stdout


def test_many_runs_keep_their_order(sandbox):
    runs = sandbox.run_all([Program(f"print({i})") for i in range(40)])
    assert [run.stdout for run in runs] == [f"{i}\n" for i in range(40)]


def test_hostile_programs_harm_no_one_beside_them(sandbox):
    beside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        hostile = [
            "import os\nfor p in range(1, 99999):\n    try: os.kill(p, 9)\n    except OSError: pass",
            "while True: pass",
            "x = []\nwhile True: x.append(bytearray(1 << 20))",
            "import os\nwhile True: os.fork()",
            "while True: print('flood')",
        ]
        before = len(psutil.Process().children(recursive=True))
        programs = [Program(each) for source in hostile for each in (source, "print('fine')")]
        runs = sandbox.run_all(programs)
        assert [run.stdout for run in runs[1::2]] == ["fine\n"] * len(hostile)
        assert beside.poll() is None
        assert len(psutil.Process().children(recursive=True)) == before
    finally:
        beside.kill()
        beside.wait()


def test_a_lost_cell_is_replaced(sandbox):
    with Sandbox(SandboxConfig(workers=1)) as own:
        cell = own._cells[0]
        cell.process.send_signal(signal.SIGKILL)
        cell.process.wait()
        assert own.run(Program("print(1)")).stdout == "1\n"


def test_closing_leaves_nothing_behind(sandbox):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    own = Sandbox(SandboxConfig(workers=2))
    own.run(Program("print(1)"))
    assert {child.pid for child in psutil.Process().children(recursive=True)} > before
    own.close()
    deadline = time.monotonic() + 10
    while {c.pid for c in psutil.Process().children(recursive=True)} - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_cells_end_when_their_owner_is_killed(sandbox):
    code = (
        "import psutil, time\nfrom rl.sandbox.runner import *\ns = Sandbox(SandboxConfig(workers=1))\n"
        "print(*[c.pid for c in psutil.Process().children(recursive=True)], flush=True)\n"
        "s.run(Program('while True: pass'))"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = list(map(int, owner.stdout.readline().split()))
    assert pids
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_every_system_call_that_is_not_allowed_is_refused(sandbox):
    """Each number that x86-64 or arm64 may have, with arguments that no call takes; the allowed ones are left out."""
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    allowed = {numbers[column] for numbers in seccomp.ALLOWED.values()}
    allowed |= {335, 336}  # uretprobe, uprobe: newer kernels show them to no filter, and end whoever calls them itself
    special = {seccomp.CLONE3[column]: 38, seccomp.IOCTL[column]: 25}
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"allowed = {sorted(n for n in allowed if n is not None)}\n"
        "for n in [*range(600), *range(1 << 30, (1 << 30) + 600)]:\n"
        "    if n not in allowed:\n"
        "        print(n, libc.syscall(n, -1, -1, -1, -1, -1, -1), ctypes.get_errno())\n"
    )
    # clone(-1) asks for a thread with every flag there is, which the kernel itself refuses: EINVAL.
    special[seccomp.CLONE[column]] = 22
    answers = [tuple(map(int, line.split())) for line in sandbox.run(Program(source)).stdout.splitlines()]
    assert len(answers) > 1000
    assert all(result == -1 and code == special.get(n, 1) for n, result, code in answers), answers


def test_without_bubblewrap_nothing_runs(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SandboxError, match="no bwrap on PATH.*not run at all.*install bubblewrap"):
        Sandbox(SandboxConfig(workers=1))


def test_bubblewrap_that_fails_is_quoted_and_nothing_runs(monkeypatch, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    command = [str(program)]
    monkeypatch.setattr(bubblewrap, "command", lambda control: command)
    with pytest.raises(SandboxError, match="No permissions to create new namespace.*user namespaces"):
        Sandbox(SandboxConfig(workers=1))


@pytest.mark.parametrize(("where", "says"), [("darwin", "Linux only"), ("linux", "x86_64 or aarch64")])
def test_other_systems_are_refused(monkeypatch, where, says):
    monkeypatch.setattr(bubblewrap.sys, "platform", where)
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match=says):
        bubblewrap.command(5)


@pytest.mark.parametrize(
    "values", [{"memory_mib": 1}, {"cpu_s": 0}, {"wall_s": 0}, {"threads": 0}, {"output_kib": 0}, {"workers": -1}]
)
def test_impossible_limits_are_refused(values):
    with pytest.raises(ConfigError, match=f"task.code.sandbox.{next(iter(values))}=.*has to be from"):
        SandboxConfig(**values)


def test_workers_share_the_machine_between_ranks(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert SandboxConfig().number == cores and SandboxConfig(workers=3).number == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert SandboxConfig().number == 1


def test_system_call_numbers_are_the_kernels(tmp_path):
    """Against the headers that the C compiler finds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    listed = seccomp.ALLOWED | {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "ioctl": seccomp.IOCTL}
    names = [name for name, numbers in listed.items() if numbers[column] is not None]
    source = tmp_path / "numbers.c"
    source.write_text("#include <sys/syscall.h>\n" + "\n".join(f"{name} = SYS_{name}" for name in names))
    text = subprocess.run([compiler, "-E", "-P", str(source)], capture_output=True, text=True, check=True).stdout
    found = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
    assert {name: int(found[name]) for name in names if found[name].isdigit()} == {
        name: listed[name][column] for name in names if found[name].isdigit()
    }
    assert sum(found[name].isdigit() for name in names) > 0.9 * len(names)


def test_a_value_that_is_no_list_of_a_call_is_passed_over():
    ended = {"status": 0, "cpu_s": 0.0, "peak_kib": 1024}
    report = b'["compiled", ""]\n[0, "value", 1]\n[0, "value", 2]\n[7, "value", 3]\n[true, "value", 4]\n{"a": 1}\n[[[['
    run = runner._judge(Program("", function="f", calls=[[1], [2]]), b"", report, None, ended, 0.1, SandboxConfig())
    assert run.values == {0: 1} and run.ending is Ending.ok
