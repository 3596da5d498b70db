"""What a process learns of its place from SLURM, and how many the scale starts. Starting them: test_cli.py."""

import os

import pytest

from experiments.config import compose
from infra import ranks

SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "123456",
}


def test_srun_gives_rank_and_meeting_point() -> None:
    env = dict(SRUN)
    assert ranks.launched(env)
    assert {key: env[key] for key in env.keys() - SRUN.keys()} == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "23456",
    }


@pytest.mark.parametrize(
    "env",
    [
        {},
        {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"},  # the shell of a batch script
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},  # srun -n1 within a larger job
    ],
)
def test_a_lone_process_is_no_rank(env: dict[str, str]) -> None:
    before = dict(env)
    assert not ranks.launched(env)
    assert env == before


def test_torchrun_is_left_as_it_is() -> None:
    env = SRUN | {"RANK": "0", "WORLD_SIZE": "2"}
    before = dict(env)
    assert ranks.launched(env) and env == before


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("cpu1", "cpu1"), ("cpu1,cpu2", "cpu1"), ("gpu[07-09,12],cpu1", "gpu07"), ("n[3,5]-ib", "n3-ib")],
)
def test_first_host(nodes: str, first: str) -> None:
    assert ranks.first_host(nodes) == first


def test_the_scale_has_its_own_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    numbers = {scale: ranks.count(compose("pretrain", [f"scale={scale}"])) for scale in ("tiny", "gpu", "cluster")}
    assert numbers == {"tiny": 2, "gpu": 3, "cluster": 1}
    assert ranks.count(compose("pretrain", ["parallel.nproc=5"])) == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [ranks.count(compose("pretrain", [f"scale={scale}"])) for scale in ("tiny", "gpu")] == [1, 1]
