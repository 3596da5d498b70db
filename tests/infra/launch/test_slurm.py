"""`r1 launch` on a real SLURM of two nodes: jobs train, stop, go on, fail, wait for each other, and are found again."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from infra import cli
from infra.files import read_json
from infra.launch import record, slurm
from infra.launch.slurm import JobState
from infra.lock import RunLock
from infra.stopping import STOP_FILE
from tests.slurm import cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PROJECT = Path(__file__).resolve().parents[3]
CLUSTER = [
    "launch=slurm",
    "gpus_per_node=0",
    "exclusive=false",
    "memory=3G",
    "account=lab",
    "code=tree",
    "env={MASTER_ADDR: 127.0.0.1, OMP_NUM_THREADS: 1}",  # both nodes are this machine, under names that nobody resolves
    "tracking.enabled=false",
]
SMALL = [
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "pretrain.tokens=15_000",
    "pretrain.batch_tokens=500",
    "pretrain.tokenizer_documents=200",
    "pretrain.tokenizer_vocab=300",
    "pretrain.evaluate_documents=8",
    "rl.steps=2",
    "rl.questions_per_step=2",
    "rl.group_size=4",
    "sampling.max_response_tokens=16",
    "evaluate.questions=4",
    "evaluate.samples=2",
    "evaluate.curve_questions=0",
]
TELL = """
steps() { grep -s -c train/grad_norm FOLDER/told/metrics.jsonl; }
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    (until [ "0$(steps)" -ge 3 ]; do sleep 0.05; done; scancel --signal=USR1 "$SLURM_JOB_ID") &
fi
"""
ONE = ["nodes=1", "nproc=1"]
TWO = ["nodes=2", "nproc=1"]


def r1(*args: str) -> tuple[int, str, str]:
    """`r1 launch ...` in this process; -> (exit status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["launch", *args])
    return code, out.getvalue(), err.getvalue()


def states(run: Path) -> list[JobState]:
    """The jobs of the newest launch, those of an array one by one."""
    launch = record.find(run)
    found = slurm.states([job.id for job in launch.jobs])
    return [state for job in launch.jobs for state in found[job.id]]


def until(true: Callable[[], bool], within_s: float = 600) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.1)


def ended(run: Path) -> list[JobState]:
    """The same when they are over."""
    until(lambda: all(state.ended for state in states(run)))
    return states(run)


def steps(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, norm of the gradient) as they were logged."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [(row["step"], row["metrics"]) for row in rows if "train/grad_norm" in row["metrics"]]
    return [(step, metrics["train/loss"], metrics["train/grad_norm"]) for step, metrics in trained]


@pytest.fixture(scope="module")
def slurm_here() -> Iterator[None]:
    """A cluster of this machine."""
    with cluster():
        yield


@pytest.fixture(scope="module")
def runs(slurm_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All jobs, submitted at once: each has a run folder in this one."""
    folder = tmp_path_factory.mktemp("runs")
    once = folder / "once.sh"
    once.write_text(
        f'[ "$SLURM_ARRAY_TASK_ID/${{SLURM_RESTART_COUNT:-0}}" != 2/0 ] || {{ touch "${STOP_FILE}"; exit 0; }}\n'
    )
    tell = folder / "tell.sh"
    tell.write_text(TELL.replace("FOLDER", str(folder)))
    obedient = folder / "obedient.sh"
    waiter = f"trap 'touch ${STOP_FILE}; exit 0' TERM; touch {folder}/listens; while :; do sleep 0.5; done"
    obedient.write_text(f"srun --ntasks=1 sh -c {shlex.quote(waiter)}\nexit $?\n")
    with RunLock(folder / "fails" / "pretrain"):
        for name, given in {
            "told": [*TWO, f"setup=[source {tell}]"],
            "chain": [*TWO, "stages=[pretrain,zero,evaluate]"],
            "seeds": [*ONE, "seeds=[1,2]", "pretrain.tokens=1_000", f"setup=[source {once}]"],
            "fails": [*ONE, "stages=[pretrain,zero]"],
            "hungry": [*ONE, "memory=150M"],
            "cancelled": [*ONE, f"setup=[source {obedient}]"],
        }.items():
            code, _, err = r1(*CLUSTER, *SMALL, *given, f"run.dir={folder}/{name}")
            assert (code, err) == (0, ""), err
        yield folder


def test_told_to_stop_it_saves_goes_back_and_ends_as_if_nothing_had_been(runs: Path) -> None:
    told, chain = runs / "told", runs / "chain" / "pretrain"
    (job,) = ended(told)
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    text = "".join(path.read_text() for path in slurm.logs(Path(record.find(told).jobs[0].folder), job))
    stopped = re.search(r"stopped by SIGUSR1 at step (\d+), saved as", text)
    assert stopped and f"going on from step {stopped[1]}" in text and "going back into the queue" in text

    until(lambda: states(runs / "chain")[0].ended)
    assert len(steps(told)) >= 25 and steps(told) == steps(chain)  # no step is lost, none is done twice
    one, other = (load_file(run / "model" / "model.safetensors") for run in (told, chain))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_a_chain_goes_from_model_to_model(runs: Path) -> None:
    jobs = ended(runs / "chain")
    assert [job.state for job in jobs] == ["COMPLETED"] * 3
    base, zero = (read_json(runs / "chain" / stage / "run.json") for stage in ("pretrain", "zero"))
    assert zero["config"]["rl"]["checkpoint"] == f"{runs}/chain/pretrain"
    assert base["created"] < zero["created"] and zero["status"] == "FINISHED"
    scores = json.loads((runs / "chain" / "evaluate" / "evaluation.json").read_text())
    assert (scores["questions"], scores["samples"]) == (4, 2)


def test_a_run_knows_its_job_its_commit_and_its_name_in_mlflow(runs: Path) -> None:
    ended(runs / "chain")
    launch = record.find(runs / "chain")
    head = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert launch.commit == head.stdout.strip()
    for job in launch.jobs[:2]:
        run = read_json(Path(job.run_dir) / "run.json")
        assert (run["run_id"], run["commit"], run["dirty"]) == (job.run_id, launch.commit, launch.dirty)
        assert (run["tags"]["slurm_job_id"], run["tags"]["logs"]) == (job.id, job.folder)
    code, out, _ = r1("logs", f"run.dir={runs}/chain", "lines=3")
    assert code == 0 and "questions             4" in out


def test_seeds_are_an_array_and_one_of_them_goes_back_alone(runs: Path) -> None:
    first, second = ended(runs / "seeds")
    assert [(job.id.partition("_")[2], job.state, job.restarts) for job in (first, second)] == [
        ("1", "COMPLETED", 0),
        ("2", "COMPLETED", 1),
    ]
    found = [read_json(runs / "seeds" / f"seed_{seed}" / "run.json") for seed in (1, 2)]
    assert [run["seed"] for run in found] == [1, 2]
    assert [run["run_id"].partition("-")[2] for run in found] == ["1", "2"]
    assert steps(runs / "seeds" / "seed_1")[0] != steps(runs / "seeds" / "seed_2")[0]


def test_a_failing_job_says_why_and_what_waits_for_it_never_starts(runs: Path) -> None:
    pretrain, zero = ended(runs / "fails")
    assert (pretrain.state, pretrain.status, zero.state) == ("FAILED", 2, "CANCELLED")
    code, out, err = r1("status", f"run.dir={runs}/fails")
    assert (code, err) == (1, "")
    assert f"job {pretrain.id} (pretrain): ended with status 2" in out
    assert f"  | run.dir={runs}/fails/pretrain: process" in out and "works here" in out
    assert f"job {zero.id} (zero): never started, as the job before it did not end well" in out
    assert not (runs / "fails" / "zero" / "run.json").exists()


def test_a_job_killed_for_memory_says_so(runs: Path) -> None:
    (job,) = ended(runs / "hungry")
    assert job.failed
    code, out, _ = r1("status", f"run.dir={runs}/hungry")
    assert code == 1 and "killed for want of memory: ask for more than launch.memory=150M" in out


def test_a_cancelled_job_stays_out_of_the_queue(runs: Path) -> None:
    folder = runs / "cancelled"
    until((runs / "listens").exists)
    (job,) = states(folder)
    again = r1(*CLUSTER, *SMALL, *ONE, f"run.dir={folder}")
    assert again[0] == 2 and f"job {job.id} is at work there" in again[2]
    code, out, _ = r1("cancel", f"run.dir={folder}")
    assert code == 0 and f"job {job.id} (pretrain): cancelled" in out
    (job,) = ended(folder)
    time.sleep(7)  # a requeued job would be back by now
    (job,) = states(folder)
    assert (job.state, job.restarts) == ("CANCELLED", 0)
    assert "all jobs have ended already" in r1("cancel", f"run.dir={folder}")[1]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("account=nobody", ["launch.account=nobody", "is no account of root", "lab"]),
        ("partition=gpu", ["launch.partition=gpu", "choose one of lab"]),
        ("nodes=3", ["launch.nodes=3", "partition lab has 2", "at most 2"]),
        ("time=2-00", ["launch.time=2-00", "lab allows 1-00:00:00"]),
        ("sbatch={constraint: h100}", ["sbatch refuses", "feature", "nothing was submitted"]),
        ("memory=1T", ["sbatch refuses", "lower launch.memory", "nothing was submitted"]),
        ("run.dir=/proc/none", ["run.dir=/proc/none", "cannot be written", "all nodes share"]),
    ],
)
def test_what_slurm_has_not_is_told_in_a_line(given: str, parts: list[str], slurm_here: None, tmp_path: Path) -> None:
    code, out, err = r1(*CLUSTER, *SMALL, *ONE, f"run.dir={tmp_path}", given)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(part in err for part in parts), err
    assert record.find(tmp_path) is None
