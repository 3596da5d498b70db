"""Every attempt to get out fails, and the attempts that may be run bare succeed there: the suite can tell."""

import json
import subprocess
import sys

import pytest

from rl.sandbox import escapes
from rl.sandbox.attempts import ATTEMPTS

HARMLESS = (
    "file of the machine",
    "file that all may read",
    "file by way of ..",
    "file of this project",
    "folder of the machine",
    "process files",
    "environment",
    "IPv4",
    "datagram",
    "unix socket",
    "abstract unix socket",
    "pair of sockets",
    "netlink",
    "fork",
    "another program",
    "itself anew",
    "file in memory",
    "shared memory",
    "another filter",
)
"Attempts of ours that do no harm to a machine, run on it as they are."


@pytest.fixture(scope="module")
def outcomes(sandbox):
    return escapes.run_all()


def test_no_attempt_gets_out(outcomes):
    assert [str(outcome) for outcome in outcomes if outcome.escaped] == []


def test_there_are_enough_of_them_with_names_of_their_own(outcomes):
    names = [attempt.name for attempt in ATTEMPTS]
    assert len(set(names)) == len(names) >= 30
    assert [outcome.name for outcome in outcomes] == names


def test_summary_counts_them(outcomes):
    found = json.loads(json.dumps(escapes.summary(outcomes)))
    assert (found["attempts"], found["escaped"]) == (len(ATTEMPTS), 0)
    assert found["by_name"].keys() == {attempt.name for attempt in ATTEMPTS}


def test_the_suite_sees_an_escape_where_there_is_no_sandbox(tmp_path):
    by_name = {attempt.name: attempt for attempt in ATTEMPTS}
    with escapes.outside() as world:
        assert world.touched() == ""
        for name in HARMLESS:
            code = escapes.source(by_name[name], world)
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
            )
            assert "ESCAPED" in done.stdout, (name, done.stderr)
        reached = {world.touched() for _ in range(6)}
        assert reached == {"a server outside was reached", ""}
        (world.folder / "written").touch()
        assert world.touched() == "the folder outside has changed"
        (world.folder / "written").unlink()


def test_an_attempt_that_tries_nothing_is_an_error_of_ours(sandbox):
    from infra.errors import SandboxError
    from rl.sandbox.attempts import Attempt

    with escapes.outside() as world, pytest.raises(SandboxError, match="'typo' is broken: NameError"):
        escapes._outcome(Attempt("typo", "read('/etc/passwd')"), sandbox, world, 0)
