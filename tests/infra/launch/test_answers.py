"""What SLURM's answers, as SLURM 22.05 gave them, are taken to mean. Against a living SLURM: test_slurm.py."""

from pathlib import Path

import pytest

from infra import cli
from infra.errors import ConfigError, R1Error
from infra.launch import slurm
from infra.launch.slurm import JobState
from infra.launch_config import LaunchConfig
from tests.infra.launch.programs import on_path

CLUSTER = {
    "sbatch": "exit 1",
    "srun": "exit 1",
    "scancel": "exit 1",
    "scontrol": "exit 1",
    "sinfo": 'case "$*" in *%n*) echo node1;; *) printf "gpu*|4|2-00:00:00\\ncpu|100|infinite\\ncpu|3|infinite";; esac',
    "sacctmgr": "printf 'lab\\nroot\\n'",
}
ARRAY = """\
JobId=9 ArrayJobId=9 ArrayTaskId=11-12%1 JobState=PENDING Reason=JobArrayTaskLimit Restarts=0 ExitCode=0:0
JobId=13 ArrayJobId=9 ArrayTaskId=5 JobState=FAILED Reason=NonZeroExitCode Restarts=1 ExitCode=5:0 RunTime=00:00:03
JobId=10 ArrayJobId=9 ArrayTaskId=3 JobName=wrap JobState=RUNNING Reason=None Restarts=0 ExitCode=0:0 RunTime=00:00:04
"""


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster whose programs the test may replace."""
    return on_path(monkeypatch, tmp_path / "bin", **CLUSTER)


def say(folder: Path, name: str, text: str, status: int = 0, where: str = "") -> None:
    (folder / f"{name}.said").write_text(text)
    (folder / name).write_text(f'#!/bin/bash\ncat "{folder}/{name}.said" {where}\nexit {status}\n')
    (folder / name).chmod(0o755)


def test_what_is_there_passes(bin_: Path) -> None:
    slurm.check(LaunchConfig())
    slurm.check(LaunchConfig(nodes=103, partition="cpu", account="lab", time="30-00"))
    slurm.check(LaunchConfig(nodes=50, partition="gpu,cpu"))


@pytest.mark.parametrize(
    ("cfg", "parts"),
    [
        (LaunchConfig(partition="h100"), ["launch.partition=h100", "choose one of cpu, gpu"]),
        (LaunchConfig(partition="gpu", nodes=5), ["launch.nodes=5", "partition gpu has 4", "at most 4"]),
        (LaunchConfig(nodes=5), ["launch.nodes=5", "partition gpu has 4"]),
        (LaunchConfig(time="3-00"), ["launch.time=3-00", "gpu allows 2-00:00:00", "go on by themselves"]),
        (LaunchConfig(account="labb"), ["launch.account=labb", "choose one of lab, root"]),
    ],
)
def test_what_the_cluster_has_not_is_refused(cfg: LaunchConfig, parts: list[str], bin_: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        slurm.check(cfg)
    assert all(part in str(raised.value) for part in parts), raised.value


def test_a_cluster_without_accounts_takes_any(bin_: Path) -> None:
    say(bin_, "sacctmgr", "You are not running a supported accounting_storage plugin\n", status=1, where=">&2")
    slurm.check(LaunchConfig(account="anything"))


def test_no_slurm_and_a_silent_one_are_told_apart(bin_: Path) -> None:
    say(bin_, "sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)\n", 1, ">&2")
    with pytest.raises(R1Error, match="SLURM does not answer sinfo: .*connect failure"):
        slurm.check(LaunchConfig())
    say(bin_, "scontrol", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1, ">&2")
    with pytest.raises(R1Error, match="SLURM does not answer"):
        slurm.states(["9"])
    (bin_ / "sbatch").unlink()
    with pytest.raises(ConfigError, match=r"launch=slurm: there is no SLURM here \(sbatch not found\).*launch=local"):
        slurm.check(LaunchConfig())


def test_without_slurm_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_path(monkeypatch, tmp_path / "bin")
    assert cli.main(["launch", "launch=slurm", f"run.dir={tmp_path}/run"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "launch=slurm: there is no SLURM here" in said.err
    assert not (tmp_path / "run").exists()


def test_tasks_of_an_array_have_names_and_logs_of_their_own(bin_: Path) -> None:
    say(bin_, "scontrol", ARRAY)
    three, five, rest = slurm.states(["9"])["9"]
    assert (three.id, three.raw, three.state, three.ended) == ("9_3", "10", "RUNNING", False)
    assert (five.id, five.raw, five.status, five.restarts, five.failed) == ("9_5", "13", 5, 1, True)
    assert (rest.id, rest.reason, rest.ended) == ("9_11-12%1", "JobArrayTaskLimit", False)


def test_what_the_controller_forgot_accounting_remembers(bin_: Path) -> None:
    say(bin_, "scontrol", "slurm_load_jobs error: Invalid job id specified\n", 1, ">&2")
    assert slurm.states(["8"])["8"][0].state == "UNKNOWN"
    say(bin_, "sacct", "8|8|REQUEUED|0:0|00:05:11\n8|8|CANCELLED by 0|0:0|00:00:26\n")
    (job,) = slurm.states(["8"])["8"]
    assert (job.state, job.restarts, job.elapsed, job.failed) == ("CANCELLED", 1, "00:00:26", True)
    say(bin_, "sacct", "9_3|10|COMPLETED|0:0|00:00:05\n9_9|9|FAILED|0:9|00:00:03\n")
    assert [(job.id, job.raw, job.status) for job in slurm.states(["9"])["9"]] == [("9_3", "10", 0), ("9_9", "9", 137)]


@pytest.mark.parametrize("word", ["REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_a_job_on_its_way_back_has_not_ended(word: str, bin_: Path) -> None:
    say(bin_, "scontrol", f"JobId=7 JobName=x JobState={word} Reason=BeginTime Restarts=2 ExitCode=0:0 RunTime=0\n")
    (job,) = slurm.states(["7"])["7"]
    assert (job.state, job.reason, job.ended) == ("PENDING", "BeginTime", False)


def job(state: str, **facts: str | int) -> JobState:
    return JobState(id="12", raw="12", state=state, **facts)


@pytest.mark.parametrize(
    ("one", "script", "tasks", "says"),
    [
        (job("OUT_OF_MEMORY"), "", "", "want of memory: ask for more than launch.memory=8G"),
        (
            job("FAILED"),
            "slurmstepd-lab1: error: Exceeded job memory limit\nsrun: error: lab1: task 0: Killed\n",
            "",
            "want of memory",
        ),
        (
            job("FAILED"),
            "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0. Some of the step tasks have been\n",
            "",
            "want of memory",
        ),
        (job("FAILED"), "srun: error: n2: tasks 8-15: Out Of Memory\n", "", "want of memory"),
        (job("FAILED", status=143), "srun: error: n2: task 1: Killed\n", "", "SIGKILL, for want of memory most likely"),
        (job("FAILED", status=2), "", "rl.steps=0: nothing\n", "ended with status 2"),
        (job("TIMEOUT"), "", "", "launch.time=00:20:00 was over before it had saved, 100 s after"),
        (job("CANCELLED"), "", "", "goes on from its last checkpoint"),
        (job("CANCELLED", reason="DependencyNeverSatisfied"), "", "", "the job before it did not end well"),
        (job("UNKNOWN", reason="SLURM has forgotten it"), "", "", "forgotten"),
    ],
)
def test_why_a_job_ended(one: JobState, script: str, tasks: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "sbatch_x_12.out").write_text(f"+ export A=1\n{script}")
    (tmp_path / "log-x_12_0.out").write_text(tasks)
    assert says in slurm.why(one, tmp_path, LaunchConfig(memory="8G", time="00:20:00", save_before_s=100))


def test_the_tail_is_of_the_last_life_with_what_slurm_says(tmp_path: Path) -> None:
    (tmp_path / "sbatch_x_12.out").write_text("+ nodes=1\nsrun: error: lab1: task 0: Exited with exit code 1\nexit 1\n")
    for life in range(11):
        (tmp_path / f"log-x_12_{life}.out").write_text("".join(f"life {life} line {i}\n" for i in range(9)))
    (tmp_path / "log-x_13_0.out").write_text("of another job\n")
    assert slurm.tail(tmp_path, job("FAILED"), 2) == [
        "life 10 line 7",
        "life 10 line 8",
        "srun: error: lab1: task 0: Exited with exit code 1",
    ]
    assert slurm.logs(tmp_path, job("FAILED"))[-1].name == "log-x_12_10.out"


def test_a_disk_of_this_machine_is_told_from_one_of_the_network(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\nmds@tcp:/l /home/big lustre rw 0 0\n"
    monkeypatch.setattr(slurm.Path, "read_text", lambda path: mounts)
    assert slurm.disk_of_one_machine(Path("/data/run")) == "ext4"
    assert slurm.disk_of_one_machine(Path("/home/me")) == slurm.disk_of_one_machine(Path("/home/big/run")) == ""
    monkeypatch.setattr(slurm.socket, "gethostname", lambda: "node1")  # a cluster of this machine alone
    assert slurm.disk_of_one_machine(Path("/data/run")) == ""
