"""The scripts that SLURM gets: what is in them, and what bash does with them where small programs play SLURM."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from infra import cli
from infra.stopping import STOP_FILE
from tests.infra.launch.programs import program

PROJECT = Path(__file__).resolve().parents[3]
GIVEN = [
    "launch=slurm",
    "dry_run=true",
    "code=tree",
    "nodes=256",
    "account=phys_1",
    "partition=gpu",
    "qos=high",
    "time=1-00",
    "save_before_s=600",
    "requeues=7",
    "cpus_per_task=12",
    "modules=[cuda/13.0,hpcx]",
    """env={NCCL_DEBUG: INFO, NOTE: "it's $5"}""",
    "sbatch={constraint: 'h100&ib', spread-job: ''}",
    "srun={mpi: pmix, no-container-mount-home: ''}",
    "setup=[ulimit -c 0]",
    "run.name=it's a$$b",
    "rl.steps=3",
]
pytestmark = pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="what is packaged comes from git")

SAVED = f'touch "${STOP_FILE}"'
"What training does when it was told to stop."


@dataclass
class Dry:
    """A dry run."""

    run: Path
    out: str
    err: str

    @property
    def folder(self) -> Path:
        (folder,) = (self.run / "launch" / "experiments" / "jobs").iterdir()
        return folder

    def script(self, stage: str) -> str:
        return (self.folder / f"{stage}_sbatch.sh").read_text()

    def options(self, stage: str) -> dict[str, str]:
        """The #SBATCH lines."""
        lines = [line.removeprefix("#SBATCH --") for line in self.script(stage).splitlines() if "#SBATCH" in line]
        return {key: " ".join(shlex.split(value)) for key, _, value in (line.partition("=") for line in lines)}

    def started(self, stage: str) -> list[str]:
        """The words of the line that starts the processes."""
        (line,) = [line for line in self.script(stage).splitlines() if "-m infra.cli" in line]
        return shlex.split(line)


def dry_run(folder: Path, *given: str) -> Dry:
    """`r1 launch` in this process: importing NeMo-Run takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["launch", *given, f"run.dir={folder}/run"])
    assert code == 0, err.getvalue()
    return Dry(folder / "run", out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """A chain with everything set."""
    return dry_run(tmp_path_factory.mktemp("chain"), *GIVEN, "stages=[pretrain,zero]")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """A job array in a container."""
    container = "container=nvcr.io#nvidia/pytorch:26.03-py3"
    given = ["launch=slurm", "dry_run=true", "code=tree", "seeds=[3,5]", container, "mounts=[/data:/data]"]
    return dry_run(tmp_path_factory.mktemp("seeds"), *given, "tracking.uri=http://mlflow:5000")


def test_options_of_sbatch(chain: Dry) -> None:
    options = chain.options("zero")
    log = options.pop("output")
    assert log.startswith(f"{chain.folder}/zero/sbatch_") and log.endswith("_%j.out")
    assert options == {
        "account": "phys_1",
        "partition": "gpu",
        "qos": "high",
        "time": "1-00",
        "nodes": "256",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "12",
        "mem": "0",
        "exclusive": "",
        "signal": "USR1@600",
        "requeue": "",
        "open-mode": "append",
        "kill-on-invalid-dep": "yes",
        "constraint": "h100&ib",
        "spread-job": "",
        "job-name": "it-s-a--b.zero",
    }


def test_one_task_of_srun_for_each_gpu_and_no_torchrun(chain: Dry) -> None:
    words = chain.started("zero")
    assert (
        words[0] == "srun"
        and {"--mpi=pmix", "--no-container-mount-home"} <= {*words}
        and "--kill-on-bad-exit=1" in words
    )
    assert words[words.index("--chdir") + 1] == f"{chain.folder}/zero/code"
    program_, module, name, stage, *settings = words[words.index(sys.executable) :]
    assert (program_, module, name, stage) == (sys.executable, "-m", "infra.cli", "zero")
    base = f"{chain.run}/pretrain"
    assert {"rl.steps=3", "run.name=it's a$$b", f"run.dir={chain.run}/zero", f"rl.checkpoint={base}"} <= {*settings}
    assert "torchrun" not in chain.script("zero")


def test_bash_reads_what_was_written(chain: Dry, tmp_path: Path) -> None:
    lines = chain.script("pretrain").splitlines()
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)
    exports = [line for line in lines if line.startswith("export ")]
    shown = subprocess.run(
        ["env", "-i", "SLURM_JOB_ID=77", "bash"], input="\n".join([*exports, "env"]), capture_output=True, text=True
    )
    env = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert (env["NOTE"], env["NCCL_DEBUG"]) == ("it's $5", "INFO")
    assert env["R1_LOGS"] == f"{chain.folder}/pretrain" and env[STOP_FILE] == f"{chain.folder}/pretrain/stopped_77"
    head = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert env["R1_COMMIT"] == head.stdout.strip()
    assert len(env["R1_RUN_ID"]) == 32 and env["R1_RUN_ID"] not in chain.script("zero")


def test_the_job_has_a_copy_of_the_code(chain: Dry) -> None:
    for stage in ("pretrain", "zero"):
        copy = chain.folder / stage / "code" / "infra" / "cli.py"
        assert copy.read_text() == (PROJECT / "infra" / "cli.py").read_text()


def test_scripts_and_settings_are_shown_and_nothing_else(chain: Dry) -> None:
    for stage in ("pretrain", "zero"):
        assert chain.script(stage) in chain.out
        kept = yaml.safe_load((chain.folder / f"{stage}.yaml").read_text())
        assert kept["run"]["dir"] == f"{chain.run}/{stage}" and kept["rl"]["steps"] == 3
        assert f"  dir: {chain.run}/{stage}\n" in chain.out
    assert chain.err.count("\n") == 1 and "nothing was submitted" in chain.err
    assert not (chain.folder / "launch.json").exists()


def test_a_seed_is_an_index_of_the_array(seeds: Dry) -> None:
    options = seeds.options("pretrain")
    assert options["array"] == "3,5" and options["output"].endswith("_%A_%a.out")
    script = seeds.script("pretrain")
    assert f'run.dir={seeds.run}/seed_"$SLURM_ARRAY_TASK_ID"' in script
    assert 'run.seed="$SLURM_ARRAY_TASK_ID"' in script and '-"$SLURM_ARRAY_TASK_ID"\n' in script


def test_a_container_sees_the_runs_folders_and_its_own_python(seeds: Dry) -> None:
    words = seeds.started("pretrain")
    assert words[words.index("--container-image") + 1] == "nvcr.io#nvidia/pytorch:26.03-py3"
    mounts = words[words.index("--container-mounts") + 1].split(",")
    assert mounts == [f"{seeds.run}:{seeds.run}", "/data:/data", f"{seeds.folder}/pretrain:/nemo_run"]
    assert words[words.index("--container-workdir") + 1] == "/nemo_run/code"
    assert "python" in words and sys.executable not in seeds.script("pretrain")


def play(dry: Dry, stage: str, folder: Path, does: str = "exit 0", **env: str) -> tuple[int, str, str]:
    """Run the script; its processes do that. -> (its status, what it printed, calls of scontrol)."""
    calls = folder / "calls"
    calls.touch()
    program(folder, "scontrol", f'case "$1" in show) echo node1;; *) echo "$*" >> {calls};; esac')
    program(folder, "module", 'echo "module $*"; [ "$2" != "$MISSING" ]')
    program(folder, "sleep", "exit 0")
    # The look at the folders is done as it stands; what would train only ends.
    program(
        folder,
        "srun",
        f'case "$*" in *infra.cli*) {does};; *hostname*--ip*) exit 0;; esac\n'
        'while [ "$1" != sh ]; do shift; done; exec "$@"',
    )
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"
    script = f"{dry.folder}/{stage}_sbatch.sh"
    known = {"PATH": path, "SLURM_JOB_ID": "12", "SLURM_NNODES": "1", "MISSING": ""} | env
    done = subprocess.run(["bash", script], env=known, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, calls.read_text()


@pytest.mark.parametrize(
    ("does", "env", "code", "call"),
    [
        ("exit 0", {}, 0, ""),
        ("exit 2", {}, 2, ""),
        ("exit 137", {}, 137, ""),
        (f"{SAVED}; exit 0", {}, 85, "requeue 12\n"),
        (f"{SAVED}; exit 1", {}, 1, ""),  # it broke on its way out
        (f"{SAVED}; kill $PPID; exit 0", {}, 143, ""),  # SLURM ends the job itself
        ("exit 138", {}, 85, "requeue 12\n"),
        (f"{SAVED}; exit 0", {"SLURM_RESTART_COUNT": "6"}, 85, "requeue 12\n"),
        (f"{SAVED}; exit 0", {"SLURM_RESTART_COUNT": "7"}, 85, ""),
        (f"{SAVED}; exit 0", {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, 85, "requeue 12_3\n"),
    ],
)
def test_only_a_job_that_was_told_to_stop_goes_back(
    does: str, env: dict[str, str], code: int, call: str, chain: Dry, tmp_path: Path
) -> None:
    ended, out, calls = play(chain, "pretrain", tmp_path, does, **env)
    assert (ended, calls) == (code, call), out
    (chain.folder / "pretrain" / "stopped_12").unlink(missing_ok=True)
    assert out.index("module load cuda/13.0") < out.index("module load hpcx")


def test_what_a_node_lacks_ends_the_job_before_anything_starts(chain: Dry, tmp_path: Path) -> None:
    code, out, calls = play(chain, "pretrain", tmp_path, MISSING="hpcx")
    assert (code, calls) == (74, "") and "launch.modules=hpcx: cannot be loaded" in out
    gone = chain.run / "pretrain"
    gone.rename(chain.run / "moved")
    try:
        code, out, calls = play(chain, "pretrain", tmp_path)
    finally:
        (chain.run / "moved").rename(gone)
    assert (code, calls) == (73, "") and f"does not see {gone}, which has to be in a folder that all nodes" in out


def test_names_that_nemo_run_would_rewrite_are_refused(tmp_path: Path) -> None:
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = cli.main(["launch", "launch=slurm", "dry_run=true", "code=tree", f"run.dir={tmp_path}/nemo_runs/a"])
    assert code == 2 and "run.dir=" in err.getvalue() and "begins with nemo_run" in err.getvalue()


def test_deepseek_v3_as_its_report_trained_it(tmp_path: Path) -> None:
    given = [
        "experiment=v3_pretrain",
        "cluster=h800x2048",
        "launch=slurm",
        "nodes=256",
        "stages=[pretrain,zero,evaluate]",
    ]
    done = dry_run(tmp_path, *given, "dry_run=true", "code=tree", "tracking.uri=")
    for stage in ("pretrain", "zero", "evaluate"):
        options = done.options(stage)
        assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("256", "8", "8")
        assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in done.script(stage)
        kept = yaml.safe_load((done.folder / f"{stage}.yaml").read_text())
        assert kept["model"]["num_hidden_layers"] == 61 and kept["parallel"]["expert"] == 64
        assert kept["parallel"]["recompute"] == ["mla_up_proj", "layernorm", "moe_act"]
        assert kept["pretrain"]["schedule"]["lr_points"][2] == {"at": 10e12, "value": 1.0, "by": "linear"}
    plan = done.out.partition("# r1 plan, 2048 GPUs")[2]
    assert "120 x 1 rows of 4096" in plan and "mla_up_proj, layernorm, moe_act" in plan
    hours = float(re.search(r"14.8T tokens: ([\d.]+)M GPU hours", plan)[1])
    assert hours == pytest.approx(2.664, rel=0.05)  # V3 table 1
