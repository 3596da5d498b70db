"""The command line as a user meets it: in processes of its own."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.config import Config, compose
from experiments.reads import SHORT
from infra import cli, help

PROJECT = Path(__file__).parents[2]
HEAVY = "import sys; from infra.cli import main; code = main(sys.argv[1:]); heavy = {'torch', 'megatron', 'mlflow'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else code)"  # noqa: E501

# `r1` with work that needs no torch: each rank leaves a file behind, then does what run.name says.
FAKE = """
import os, sys, time
from pathlib import Path
from infra import cli

def work(cfg):
    rank = os.environ.get("RANK", "0")
    (Path(cfg.run.dir) / f"rank{rank}").write_text(f"{os.getpid()} {os.environ.get('WORLD_SIZE')}")
    print(f"rank {rank} prints")
    print(f"rank {rank} warns", file=sys.stderr)
    what, _, who = cfg.run.name.partition("@")
    if what == "wait" or (who and who != rank):
        while not (Path(cfg.run.dir) / "end").exists():
            time.sleep(0.02)
        return
    while not all((Path(cfg.run.dir) / f"rank{other}").exists() for other in range(cfg.parallel.nproc)):
        time.sleep(0.02)
    if what == "leave":
        raise SystemExit(0)
    elif what == "refuse":
        raise cli.R1Error("disk full: make room")
    elif what == "crash":
        raise ValueError("a bug")
    elif what == "vanish":
        os.kill(os.getpid(), 9)

sys.modules["fake"] = sys.modules["__main__"]
import dataclasses
cli.COMMANDS["pretrain"] = dataclasses.replace(cli.COMMANDS["pretrain"], function="fake:work")
cli.RANK_COMMAND = [sys.executable, __file__]
sys.exit(cli.main())
"""


def r1(*args: str, cwd: Path = PROJECT, code: str = HEAVY, **env: str) -> subprocess.CompletedProcess[str]:
    """`r1 args` in a process that fails if it has imported torch by the end."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(PROJECT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Fake:
    """A running `r1 pretrain` over fake work, in a folder of its own."""

    def __init__(self, folder: Path, does: str, ranks: int, **env: str) -> None:
        self.folder, self.script = folder / "run", folder / "fake.py"
        self.script.write_text(FAKE)
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, self.script, "pretrain", f"run.dir={self.folder}", f"run.name={does}"]
            + [f"parallel.nproc={ranks}"],
            env=clean | {"PYTHONPATH": str(PROJECT)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self, ranks: int) -> list[int]:
        """Wait for every rank to be at work; -> their processes."""
        files = [self.folder / f"rank{rank}" for rank in range(ranks)]
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < deadline, "ranks did not start"
            time.sleep(0.02)
        return [int(file.read_text().split()[0]) for file in files]

    def end(self) -> tuple[int, str, str]:
        """-> (exit status, stdout, stderr) once it has ended by itself."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Fake]]:
    """Starts fakes; what still runs at the test's end is killed, its ranks with it."""
    started: list[Fake] = []

    def begin(does: str, ranks: int, **env: str) -> Fake:
        started.append(Fake(tmp_path, does, ranks, **env))
        return started[-1]

    yield begin
    for fake in started:
        fake.process.kill()
        fake.process.communicate()


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process ends in that time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():  # dead, and not yet collected by init
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["zeroo"], ["r1 zeroo", "did you mean zero?"]),
        (["xyzzy"], ["r1 xyzzy", "pretrain, zero"]),
        (["pretrain", "rl.group_sise=4"], ["rl.group_sise=4", "did you mean rl.group_size"]),
        (["pretrain", "rl.group_size=1"], ["rl.group_size=1", "set 8"]),
        (["pretrain", "sampling.max_response_tokens=9999"], ["sampling.max_response_tokens=9999", "384"]),
        (["pretrain", "parallel.nproc=3", "parallel.pipeline=2"], ["parallel.nproc=3", "multiple of 2"]),
        (["pretrain", "parallel.nproc=2", "parallel.expert=4"], ["parallel.expert=4", "2 processes"]),
        (["zero"], ["rl.checkpoint="]),
        (["doctor", "sandbx=true"], ["sandbx=true", "there is no such setting"]),
        (["pretrain", "run.dir=/dev/null/x"], ["run.dir=/dev/null/x", "another folder"]),
    ],
)
def test_mistakes_get_one_line_before_torch_is_there(args: list[str], parts: list[str], tmp_path: Path) -> None:
    done = r1(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert not any(tmp_path.iterdir())


def test_other_ranks_of_a_launcher_do_not_repeat_the_complaint(tmp_path: Path) -> None:
    said = [r1("pretrain", "rl.group_size=1", cwd=tmp_path, RANK=rank, WORLD_SIZE="2") for rank in "01"]
    assert [done.returncode for done in said] == [2, 2]
    assert [done.stderr.count("\n") for done in said] == [1, 0]


@pytest.mark.parametrize("args", [(), ("--help",), ("help",)])
def test_the_commands_are_listed_with_a_sentence(args: tuple[str, ...]) -> None:
    done = r1(*args)
    assert done.returncode == 0, done.stderr
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.about)}$", done.stdout, re.M)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_every_setting_with_its_value_and_sentence(name: str) -> None:
    done = r1(name, "--help", COLUMNS="100")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    cfg = compose(name, ready=False) if cli.COMMANDS[name].sections else Config()
    for section in cli.COMMANDS[name].sections:
        value = getattr(cfg, section)
        if dataclasses.is_dataclass(value):
            prefix = "" if SHORT.get(name) == section else f"{section}."
            for key, typed, sentence in help.settings(value, prefix):
                assert sentence.endswith((".", ")", "?")), f"{key} has no sentence: {sentence}"
                assert " ".join(f"{key}={typed} {sentence}".split()) in shown, key
    hidden = {"rl", "corpus", "sampling", "model"} - set(cli.COMMANDS[name].sections)
    assert not any(re.search(rf"^  {section}\.\w", done.stdout, re.M) for section in hidden)


def test_help_shows_what_the_given_settings_come_to() -> None:
    assert "rl.steps=7 " in r1("zero", "--help", "rl.steps=7").stdout
    assert "model.hidden_size=7168" in r1("pretrain", "model=671b", "-h").stdout


def test_ranks_start_with_threads_and_environment_and_rank_0_alone_prints(start: Callable[..., Fake]) -> None:
    fake = start("go", ranks=3)
    code, out, err = fake.end()
    assert (code, out, err) == (0, "rank 0 prints\n", "rank 0 warns\n")
    assert [(fake.folder / f"rank{rank}").read_text().split()[1] for rank in range(3)] == ["3"] * 3
    assert (fake.folder / "config.yaml").exists()


def test_one_process_needs_no_other(start: Callable[..., Fake]) -> None:
    fake = start("go", ranks=1)
    assert fake.end()[0] == 0
    assert sorted(p.name for p in fake.folder.glob("rank*")) == ["rank0"]
    assert (fake.folder / "rank0").read_text().split()[1] == "None"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_children_die_with_their_parent(start: Callable[..., Fake], number: signal.Signals) -> None:
    fake = start("wait", ranks=3)
    pids = fake.pids(3)
    fake.process.send_signal(number)
    assert fake.end()[0] == -number
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_outside_the_loop_it_says_what_is_kept(start: Callable[..., Fake], number: signal.Signals) -> None:
    fake = start("wait", ranks=2)
    pids = fake.pids(2)
    fake.process.send_signal(number)
    code, _, err = fake.end()
    assert code == 0
    kept = f"finished parts and checkpoints are kept in {fake.folder}; the same command goes on from there"
    assert err.splitlines() == ["rank 0 warns", f"r1 pretrain: stopped by {number.name}; {kept}"]
    assert all(gone(pid) for pid in pids)


def test_told_to_stop_while_it_talks_it_is_no_success() -> None:
    ask = [sys.executable, "-P", "-m", "infra.cli", "generate", f"generate.checkpoint={PROJECT / 'experiments/base'}"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    talk = subprocess.Popen(
        ask, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    talk.stdin.write("Make 18 from 3, 5, 8.\n")
    talk.stdin.flush()
    assert talk.stdout.readline()  # an answer is there, and it waits for the next question
    talk.send_signal(signal.SIGTERM)
    code, (_, err) = talk.wait(60), talk.communicate()
    assert code == 128 + signal.SIGTERM
    assert err == "r1 generate: stopped by SIGTERM; nothing was written; the same command starts anew\n"


def test_ctrl_c_is_quiet_and_leaves_nothing_running(start: Callable[..., Fake]) -> None:
    fake = start("wait", ranks=2)
    pids = fake.pids(2)
    os.killpg(fake.process.pid, signal.SIGINT)  # as a terminal does
    code, _, err = fake.end()
    assert code == 130
    assert err.strip() == "rank 0 warns"
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("vanish@1", 1, "rank 1 was killed by SIGKILL (is memory short?)"),
        ("crash@1", 1, "ValueError: a bug\nrank 1 ended with status 1"),
        ("refuse@1", 2, "rank 1: disk full: make room"),
    ],
)
def test_a_rank_that_dies_ends_the_command_with_a_clear_line(
    start: Callable[..., Fake], does: str, code: int, says: str
) -> None:
    fake = start(does, ranks=3)
    pids = fake.pids(3)
    status, _, err = fake.end()
    assert status == code
    assert says in err
    assert all(gone(pid) for pid in pids)


def test_an_error_of_all_ranks_is_told_once(start: Callable[..., Fake]) -> None:
    code, _, err = start("refuse", ranks=2).end()
    assert (code, err) == (2, "rank 0 warns\ndisk full: make room\n")


def test_a_bug_keeps_its_traceback_and_children_end(start: Callable[..., Fake]) -> None:
    fake = start("crash@0", ranks=2)
    pids = fake.pids(2)
    code, _, err = fake.end()
    assert code == 1
    assert "Traceback" in err and "ValueError: a bug" in err
    assert all(gone(pid) for pid in pids)


def test_told_to_stop_all_ranks_leave_with_0(start: Callable[..., Fake]) -> None:
    assert start("leave", ranks=2).end()[0] == 0


def test_a_second_process_in_the_same_folder_is_refused(start: Callable[..., Fake]) -> None:
    first = start("wait", ranks=2)
    first.pids(2)
    code, _, err = start("go", ranks=2).end()
    assert code == 2
    assert f"run.dir={first.folder}" in err and f"process {first.process.pid} works" in err
    assert err.count("\n") == 1
    (first.folder / "end").touch()
    assert first.end()[0] == 0


def test_a_launched_rank_starts_nothing(start: Callable[..., Fake]) -> None:
    fake = start("wait", ranks=3, RANK="1", WORLD_SIZE="3")
    fake.folder.mkdir(exist_ok=True)
    (fake.folder / "end").touch()
    assert fake.end() == (0, "", "rank 1 warns\n")
    assert sorted(p.name for p in fake.folder.iterdir()) == ["end", "rank1"]


def test_fp8_that_nothing_here_carries_fails_before_the_run_folder_is_made(tmp_path: Path) -> None:
    given = ["model.fp8=torch", "model.dtype=bf16", f"run.dir={tmp_path}/run"]
    plain = "import sys; from infra.cli import main; sys.exit(main(sys.argv[1:]))"
    done = r1("pretrain", *given, code=plain, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("model.fp8=torch: torch needs a GPU of sm90") and "set model.fp8=none" in done.stderr
    assert not (tmp_path / "run").exists()
