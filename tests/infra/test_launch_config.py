"""Settings of a launch: what cannot work is refused with key, value and remedy."""

import math

import pytest

from experiments.config import compose
from infra.cli import COMMANDS
from infra.errors import ConfigError
from infra.launch_config import STAGES, seconds


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("stages=[pretrain,generate]", ["launch.stages=generate", "pretrain, zero"]),
        ("stages=[]", ["launch.stages=[]", "set launch.stages"]),
        ("stages=[zero,zero]", ["launch.stages=zero", "twice"]),
        ("seeds=[1,2,1]", ["launch.seeds=1", "twice"]),
        ("seeds=[-1]", ["launch.seeds=-1", "from 0"]),
        ("nodes=0", ["launch.nodes=0", "at least 1"]),
        ("nproc=-1", ["launch.nproc=-1", "set 0 or more"]),
        ("time=soon", ["launch.time=soon", "hours:minutes:seconds"]),
        ("time=00:00:00", ["launch.time=00:00:00", "hours:minutes:seconds"]),
        ("time=00:05:00", ["launch.save_before_s=300", "launch.time=00:05:00 (300 s)", "longer launch.time"]),
        ("env={path: x}", ["launch.env=path", "capitals"]),
        ("sbatch={--gres: x}", ["launch.sbatch="]),
        ("modules=['cuda; rm']", ["launch.modules=cuda; rm", "module avail"]),
        ("code=head", ["launch.code=head", "commit, tree"]),
        ("nodez=3", ["nodez=3", "launch.nodes"]),
        ("launch=pbs", ["launch=pbs", "local, slurm"]),
    ],
)
def test_what_cannot_work_is_refused(given: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        compose("launch", [given])
    assert all(part in str(raised.value) for part in parts), raised.value


def test_settings_of_the_command_need_no_section() -> None:
    cfg = compose("launch", ["launch=slurm", "launch.nodes=4", "dry_run=true", "env={NCCL_DEBUG: INFO, A: 1}"])
    assert (cfg.launch.where.name, cfg.launch.nodes, cfg.launch.gpus_per_node, cfg.launch.dry_run) == (
        "slurm",
        4,
        8,
        True,
    )
    assert cfg.launch.env == {"NCCL_DEBUG": "INFO", "A": "1"}
    with pytest.raises(ConfigError, match="dry_run"):
        compose("pretrain", ["dry_run=true"])


def test_an_experiment_names_its_chain() -> None:
    cfg = compose("launch", ["experiment=spine", "launch=slurm", "nodes=256"])
    assert cfg.launch.stages == ["pretrain", "zero", "evaluate"] and cfg.run.dir == "runs/spine"


def test_every_command_on_several_processes_can_be_a_job() -> None:
    several = {name for name, command in COMMANDS.items() if command.ranks}
    assert set(STAGES) == several | {"claim"}  # which starts such commands


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("01:30:00", 5400),
        ("1-12", 129600),
        ("1-00:30", 88200),
        ("2-00:00:01", 172801),
        ("infinite", math.inf),
        ("", None),
        ("1:2:3:4", None),
        ("-5", None),
    ],
)
def test_slurms_time_limits(text: str, value: float | None) -> None:
    assert seconds(text) == value
