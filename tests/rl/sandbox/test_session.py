"""A session keeps its names, calls tools outside by name, and is as shut in as any program."""

import shutil
import time

import psutil
import pytest

from infra.errors import SandboxError
from rl.sandbox.attempts import PRELUDE
from rl.sandbox.config import SandboxConfig
from rl.sandbox.escapes import outside
from rl.sandbox.runner import Program
from rl.sandbox.session import SAYS, Session, SessionConfig, ToolError

LIMITS = SandboxConfig(memory_mib=256, cpu_s=10, workers=1)


def add(first: int, second: int = 1) -> int:
    if type(first) is not int:
        raise ToolError("first is no number")
    return first + second


@pytest.fixture(scope="module")
def session(sandbox):
    with Session({"add": add}, SessionConfig(cells=1000, tool_calls=1000), LIMITS) as session:
        yield session


def test_names_outlive_their_cell_and_the_last_expression_is_the_value(session):
    assert session.run("import math\nx = [1]\ndef f(): return x + [2]").error == ""
    done = session.run("print('seen', math.pi > 3)\nx.append(5)\nf()")
    assert (done.printed, done.value, done.error, done.final) == ("seen True\n", [1, 5, 2], "", False)
    assert session.run("x[9]").error == "IndexError: list index out of range (line 1)"
    assert session.run("def (").error.startswith("SyntaxError") and session.run("x").value == [1, 5]
    assert session.run("raise SystemExit(3)").error == "SystemExit: 3 (line 1)" and session.run("x").value == [1, 5]
    assert session.run("{1, 2}").value == "{1, 2}"


def test_a_final_answer_passes_a_cells_own_handlers(session):
    done = session.run("try:\n    final_answer({'a': 1})\nexcept Exception:\n    pass\nprint('after')")
    assert (done.final, done.value, done.printed) == (True, {"a": 1}, "")


def test_tools_are_called_outside_and_only_by_name(session):
    assert session.run("add(2, second=add(1))").value == 4
    assert "add: first is no number" in session.run("add('2')").error
    assert "missing a required argument" in session.run("add()").error
    assert "not JSON serializable" in session.run("add({1})").error
    forged = 'import os\nos.write(4, b\'["tool", "__import__", ["os"], {}]\\n\')\nimport time; time.sleep(0.1)\n5'
    assert session.run(forged).value == 5
    assert session.run("1").value == 1


def test_lines_that_a_cell_writes_itself_are_no_more_than_its_own_words(session):
    scribbled = "import os\nfor t in (b'x', b'[]', b'[1]', b'[\"done\", 0, 1, 2, 3, 4]', b'{', b'[' * 9000):\n"
    assert session.run(scribbled + "    os.write(4, t + b'\\n')\n7").value == 7
    assert session.run("input()").error.startswith("EOFError")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os._exit(0)", "ended the interpreter"),
        ("import ctypes; ctypes.string_at(0)", "ended the interpreter"),
        ("import os\nwhile True: os.write(4, b'x' * 4096)", "said too much"),
    ],
)
def test_a_cell_that_ends_its_sandbox_loses_names_and_no_more(session, code, says):
    session.run("y = 1")
    assert says in session.run(code).error
    assert session.run("y").error.startswith("NameError")
    assert session.run("2 + 2").value == 4


def test_a_cell_that_is_late_is_ended(sandbox):
    with Session({}, SessionConfig(cells=3, cell_s=0.5), LIMITS) as session:
        session.run("1")
        start = time.monotonic()
        assert "longer than 0.5 s" in session.run("while True: pass").error
        assert time.monotonic() - start < 20
        assert session.run("3").value == 3
        assert "limit of 3 cells" in session.run("4").error


def test_calls_of_tools_are_counted(sandbox):
    with Session({"add": add}, SessionConfig(tool_calls=2), LIMITS) as session:
        done = session.run("for i in range(5):\n    print(add(i))")
        assert done.printed == "1\n2\n" and "limit of 2 calls" in done.error


def test_printing_is_cut_and_memory_is_limited(session):
    done = session.run("print('x' * 1_000_000)")
    assert done.error == "" and len(done.printed) < 21_000 < SAYS and done.printed.endswith("[cut here]")
    assert session.run("held = bytearray(400 << 20)").error.startswith("MemoryError")


ESCAPES = {
    "files": "reads('$SECRET')",
    "project": "reads('$PROJECT')",
    "writing": "open('$FOLDER/written', 'w').write('x'); escaped()",
    "fork": "os.fork(); escaped()",
    "program": "import subprocess; subprocess.run(['/bin/true']); escaped()",
    "network": "socket.create_connection(('127.0.0.1', $TCP), 1); escaped()",
    "unix": "socket.socket(socket.AF_UNIX).connect('$SOCKET'); escaped()",
    "environment": "reads('/proc/1/environ')",
    "parent": "os.kill(os.getppid() or 2, 9); escaped()",
    "everyone": "os.kill(-1, 9); escaped()",
    "asker": "os.kill($PID, 9); escaped()",
}


def test_cells_get_nowhere(session):
    from string import Template

    session.run(PRELUDE)
    with outside() as world:
        for name, code in ESCAPES.items():
            done = session.run(Template(code).safe_substitute(world.names))
            assert "ESCAPED" not in done.printed and "Error" in done.error, (name, done)
        assert world.touched() == ""
    assert session.run("1").value == 1


def test_a_signal_to_its_group_reaches_nobody_else(session, sandbox):
    session.run("z = 1")
    cell = session._cell.process.pid
    session.run("import os, signal\nos.kill(0, signal.SIGKILL)")
    assert psutil.Process(cell).status() != psutil.STATUS_ZOMBIE
    assert session.run("1 + 1").value == 2
    assert sandbox.run(Program("import os\nos.kill(0, 9)\nprint(3)")).stdout == "3\n"


def test_without_bubblewrap_nothing_is_run(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Session({}) as session, pytest.raises(SandboxError, match="apt install bubblewrap"):
        session.run("1")
