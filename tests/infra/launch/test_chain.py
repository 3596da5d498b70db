"""A chain: which command runs where, on what folder, and how its settings reach a shell."""

import subprocess
from pathlib import Path

import pytest

from experiments.config import compose
from experiments.kept_config import save_config
from infra.errors import ConfigError
from infra.files import write_json
from infra.launch.chain import Job, chain, check_layout


def jobs(tmp_path: Path, *given: str) -> list[Job]:
    given = [f"run.dir={tmp_path}/run", *given]
    return chain(compose("launch", given), given)


def settings(job: Job, seed: int = 0) -> dict[str, str]:
    stage, *args = job.command(seed)
    assert stage == job.stage
    return dict(arg.split("=", 1) for arg in args)


def test_each_stage_starts_from_the_model_of_the_one_before(tmp_path: Path) -> None:
    pretrain, zero, evaluate = jobs(tmp_path, "stages=[pretrain,zero,evaluate]", "rl.steps=3")
    assert [job.after for job in (pretrain, zero, evaluate)] == [None, "pretrain", "zero"]
    assert "rl.checkpoint" not in settings(pretrain)
    assert settings(zero)["rl.checkpoint"] == settings(pretrain)["run.dir"] == f"{tmp_path}/run/pretrain"
    assert settings(evaluate)["evaluate.checkpoint"] == settings(zero)["run.dir"] == f"{tmp_path}/run/zero"
    assert zero.cfg.rl.steps == 3 and pretrain.cfg.pretrain.optimizer.name.name == "muon"
    assert len({job.run_id for job in (pretrain, zero)}) == 2 and evaluate.run_id == ""


def test_a_chain_of_r1_hands_on_models_and_sets(tmp_path: Path) -> None:
    """R1 §2.3: the cold start and the SFT train the base, the set comes from the reasoning model."""
    base = Path("experiments/base").resolve()
    stages = "stages=[zero,cold_start,reasoning,rejection,sft,all_scenarios]"
    found = jobs(tmp_path, stages, f"rl.checkpoint={base}", f"sft.checkpoint={base}")
    zero, cold, reasoning, rejection, sft, everything = map(settings, found)
    assert zero["rl.checkpoint"] == cold["sft.checkpoint"] == sft["sft.checkpoint"] == str(base)
    assert reasoning["rl.checkpoint"] == cold["run.dir"] and rejection["rl.checkpoint"] == reasoning["run.dir"]
    assert sft["sft.data"] == f"{rejection['run.dir']}/data.parquet" and rejection["run.dir"] in found[4].folders
    assert everything["rl.checkpoint"] == sft["run.dir"]
    assert all("sft.data" not in job for job in (cold, reasoning, rejection, everything))


def test_a_student_keeps_the_start_of_its_own_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.stored.from_hub", lambda key, name: Path("experiments/base").resolve())
    given = ["stages=[zero,rejection,distill@distill_qwen_7b]", "rl.checkpoint=experiments/base", "parallel.tensor=1"]
    *_, student = jobs(tmp_path, *given)
    assert "sft.checkpoint" not in settings(student) and student.cfg.sft.checkpoint.endswith("experiments/base")
    assert settings(student)["sft.data"] == f"{tmp_path}/run/rejection/data.parquet"


def test_pairs_of_a_judge_are_handed_on_and_the_model_that_answered_is_trained(tmp_path: Path) -> None:
    judge = ["rlaif.judge.url=http://10.0.0.1/v1", "rlaif.judge.model=m", "tracking.uri="]
    found = jobs(tmp_path, "stages=[zero,rlaif,dpo]", "rl.checkpoint=experiments/base", *judge)
    zero, rlaif, dpo = map(settings, found)
    assert rlaif["rlaif.checkpoint"] == dpo["dpo.checkpoint"] == zero["run.dir"]
    assert dpo["dpo.data"] == f"{rlaif['run.dir']}/pairs.jsonl"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("zero,cold_start", "sft.checkpoint=: there is no model to start from"),  # a cold start of R1-Zero is none
        ("pretrain,sft", "sft.data=: there is no set"),
        ("pretrain@spine,zero@spine", "launch.stages=spine: is there twice"),
    ],
)
def test_a_chain_with_nothing_to_hand_on_is_refused(stages: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        jobs(tmp_path, f"stages=[{stages}]", "rl.checkpoint=experiments/base")
    assert said in str(raised.value), raised.value


def test_deepseek_v3_reads_4k_then_32k_then_128k_each_from_the_one_before(tmp_path: Path) -> None:
    """V3 §4.2-4.3 as one command."""
    names = ["v3_pretrain", "v3_extend_32k", "v3_extend_128k"]
    given = ["launch=slurm", "nodes=256", "cluster=h800x2048", f"stages=[{','.join(f'pretrain@{n}' for n in names)}]"]
    cfg = compose("launch", [f"run.dir={tmp_path}/run", *given])
    found = chain(cfg, [f"run.dir={tmp_path}/run", *given])
    assert [job.name for job in found] == names and [job.after for job in found] == [None, *names[:2]]
    assert [settings(job)["run.dir"] for job in found] == [f"{tmp_path}/run/{name}" for name in names]
    starts = [settings(job).get("pretrain.checkpoint") for job in found]
    assert starts == [None, *(f"{tmp_path}/run/{name}" for name in names[:2])]
    assert [job.cfg.model.max_position_embeddings for job in found] == [4096, 32768, 131072]
    assert [job.cfg.model.rope_factor for job in found] == [1, 40, 40]
    assert check_layout(cfg, found) == 2048


def test_a_lone_stage_works_in_the_run_folder_itself(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    assert settings(job)["run.dir"] == f"{tmp_path}/run"


def test_paths_hold_wherever_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["stages=[zero]", "rl.checkpoint=base", "run.dir=run"]
    (job,) = chain(compose("launch", given), given)
    assert settings(job)["rl.checkpoint"] == f"{tmp_path}/base"
    assert settings(job)["tracking.uri"] == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert set(job.folders) == {f"{tmp_path}/run", f"{tmp_path}/base", f"{tmp_path}/runs"}


def test_each_seed_has_a_folder_and_settings_of_its_own(tmp_path: Path) -> None:
    pretrain, zero = jobs(tmp_path, "stages=[pretrain,zero]", "seeds=[3,5]", "run.seed=1")
    assert pretrain.folder(3) == tmp_path / "run" / "seed_3" / "pretrain"
    for seed in (3, 5):
        assert settings(zero, seed)["run.seed"] == str(seed)
        assert (
            settings(zero, seed)["rl.checkpoint"] == settings(pretrain, seed)["run.dir"] == str(pretrain.folder(seed))
        )
    assert pretrain.cfg.run.seed == 3


def test_a_shell_gives_back_what_was_typed(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "seeds=[7]", 'run.name=it\'s $HOME `id` "x" *')
    script = f"export SLURM_ARRAY_TASK_ID=7; printf '%s\\0' {' '.join(job.shell())}"
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.rstrip("\0").split("\0") == job.command(7)


def test_settings_of_the_launch_stay_with_it(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "launch=slurm", "launch.nodes=4", "nproc=2", "env={A: b}", "model.hidden_size=64")
    assert not any(arg.startswith(("launch", "env", "nodes", "nproc")) for arg in job.args)
    assert settings(job)["parallel.nproc"] == "2" and job.cfg.model.hidden_size == 64


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (["launch=slurm", "nodes=4"], 32),
        (["launch=slurm", "nodes=4", "nproc=2"], 8),
        (["launch=slurm", "gpus_per_node=0"], 1),
        (["launch=local", "nproc=3"], 3),
        (["launch=local", "parallel.nproc=4"], 4),
    ],
)
def test_processes_of_a_job(given: list[str], number: int, tmp_path: Path) -> None:
    cfg = compose("launch", given)
    assert check_layout(cfg, jobs(tmp_path, *given)) == number


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["stages=[zero]"], ["rl.checkpoint=", "experiments/base"]),
        (["stages=[zero]", "rl.checkpoint=/nowhere"], ["rl.checkpoint=/nowhere", "is not there"]),
        (["launch=slurm", "parallel.expert=4", "nproc=2"], ["parallel.expert=4", "2 processes"]),
        (["nodes=2"], ["launch.nodes=2", "launch=slurm"]),
        (["seeds=[99999999999]"], ["run.seed=99999999999"]),
    ],
)
def test_what_a_job_would_refuse_is_refused_at_once(given: list[str], parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        check_layout(compose("launch", given), jobs(tmp_path, *given))
    assert all(part in str(raised.value) for part in parts), raised.value


def test_a_folder_of_another_run_is_refused_and_its_own_goes_on(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    save_config(job.cfg, tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", {"run_id": "before"})
    assert jobs(tmp_path)[0].run_id == "before"
    with pytest.raises(ConfigError, match=r"run.seed=4: the run in .* has 0"):
        jobs(tmp_path, "run.seed=4")
