"""Settings: every YAML composes, and what cannot work is refused in one line that names key, value and remedy."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from experiments.config import CONF, Config, compose, group_options, to_dict
from experiments.kept_config import refuse_other_run, save_config
from experiments.reads import FILES
from experiments.reads import NEEDED as NEEDED_KEYS
from infra.cli import COMMANDS
from infra.errors import ConfigError
from modeling.config import Fp8, ModelConfig
from modeling.presets import PRESETS
from rl.objective_config import ObjectiveName
from training.config import OptimizerName

HERE = {name: keys[0] for name, keys in NEEDED_KEYS.items() if name != "lineage"}
DATA = ["sft.data=a.jsonl"]
NEEDED = {"import": ["hf=a", "out=b"], "export": ["checkpoint=a", "out=b"], "lineage": ["checkpoint=a"]}
NEEDED |= {"agents": ["url=http://10.0.0.1/v1"], "datagen": ["task=a", "url=http://10.0.0.1/v1"]}
NEEDED |= {"sft": DATA, "distill": DATA, "long2short": ["short=a"]}
NEEDED["tokenize"] = ["data=[a.jsonl]", "out=b"]
NEEDED["rlaif"] = ["judge.url=http://10.0.0.1:8000/v1", "judge.model=m"]
OPTIONS = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml"))]
OPTIONS = [pair for pair in OPTIONS if pair[0] != "claims"]  # no settings: tests/experiments/claims composes them


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder without weights, of a shape that is nobody's default."""
    shape = ModelConfig(hidden_size=96, max_position_embeddings=512)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_hf_dict()))
    return tmp_path


@pytest.mark.parametrize(("group", "option"), OPTIONS + [("model", name) for name in PRESETS])
def test_every_option_composes(group: str, option: str) -> None:
    cfg = compose("pretrain", [f"{group}={option}"])
    json.dumps(to_dict(cfg))


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.sections])
@pytest.mark.parametrize("scale", ["tiny", "gpu", "cluster"])
def test_every_command_composes_at_every_scale(command: str, scale: str, folder: Path) -> None:
    given = [f"scale={scale}", *NEEDED.get(command, [])]
    if command in HERE:
        given.append(f"{HERE[command]}={folder}")
        given.append("sampling.max_response_tokens=200")
    if command in FILES:
        given.append(f"{FILES[command]}={folder / 'config.json'}")
    cfg = compose(command, given)
    assert cfg.scale == scale
    assert cfg.run.dir == f"runs/{command}"


def test_every_yaml_is_an_option_of_a_group() -> None:
    found = group_options()
    assert {(group, option) for group, option in OPTIONS} == {
        (group, option) for group, options in found.items() for option in options if group != "model"
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_published_shape(name: str) -> None:
    assert compose("pretrain", [f"model={name}"]).model == ModelConfig.preset(name)


def test_files_say_what_differs_and_the_command_line_wins() -> None:
    assert compose("pretrain").pretrain.optimizer.name is OptimizerName.muon
    assert compose("reproduce").pretrain.tokens < compose("pretrain").pretrain.tokens
    cfg = compose("reproduce", ["scale=gpu", "model=tiny", "pretrain.tokens=500_000", "rl.objective.clip_high=0.4"])
    assert (cfg.model.hidden_size, cfg.pretrain.tokens, cfg.rl.objective.clip_high) == (128, 500_000, 0.4)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("rl.group_size=1", ["rl.group_size=1", "set 8"]),
        ("sampling.max_response_tokens=1000", ["sampling.max_response_tokens=1000", "max_position_embeddings=384"]),
        ("task.template=r1_zero", ["max_response_tokens=256", "set model.max_position_embeddings="]),
        ("evaluate.questions=100000", ["evaluate.questions=100000", "held-out", "set at most"]),
        ("task.names=[sums]", ["task.names=sums", "chain_sum"]),
        ("rl.minibatches=1000", ["rl.minibatches=1000", "256"]),
        ("pretrain.tokens=100", ["pretrain.tokens=100", "batch_tokens"]),
        ("parallel.expert=3", ["parallel.expert=3", "8 experts"]),
        ("parallel.tensor=3", ["parallel.tensor=3", "4 heads"]),
        ("parallel.pipeline=4", ["parallel.pipeline=4", "3 layers"]),
        ("parallel.zero1=true", ["pretrain.optimizer.name=muon", "adamw"]),
        ("run.seed=-1", ["run.seed=-1"]),
        ("tracking.experiment=", ["tracking.experiment", "r1lab"]),
        ("rl.group_sise=4", ["rl.group_sise=4", "did you mean rl.group_size"]),
        ("group_size=4", ["did you mean rl.group_size"]),
        ("xyzzy=4", ["xyzzy=4", "--help"]),
        ("rl=4", ["rl=4", "section"]),
        ("rl.steps", ["rl.steps", "write rl.steps=64"]),
        ("rl.steps=many", ["rl.steps=many", "whole number", "64"]),
        ("rl.steps=1.5", ["rl.steps=1.5", "whole number"]),
        ("rl.steps=1,2", ["rl.steps=1,2", "several values"]),
        ("rl.steps=${oc.env:HOME}", ["rl.steps=$", "whole number"]),
        ("rl.steps=[", ["rl.steps=[", "whole number"]),
        ("rl.optimizer.lr=fast", ["rl.optimizer.lr=fast", "no number"]),
        ("evaluate.json=perhaps", ["evaluate.json=perhaps", "true nor false"]),
        ("pretrain.rows=packt", ["pretrain.rows=packt", "by_length, packed"]),
        ("task.names=countdown", ["task.names=countdown", "[countdown]"]),
        ("model=tinny", ["model=tinny", "did you mean tiny", "671b"]),
        ("scale=laptop", ["scale=laptop", "tiny"]),
        ("experiment=none", ["experiment=none", "no such option"]),
        ("+rl.steps=4", ["+rl.steps=4", "did you mean rl.steps"]),
        ("~model", ["did you mean model"]),
        ("hydra.verbose=true", ["hydra.verbose=true", "no such setting"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(given: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        compose("reproduce", [given])
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", HERE)
def test_commands_on_a_model_need_one(command: str, tmp_path: Path) -> None:
    key = HERE[command]
    with pytest.raises(ConfigError, match=f"{key}=.*set {key}="):
        compose(command)
    with pytest.raises(ConfigError, match="is not there"):
        compose(command, [f"{key}={tmp_path}/nothing"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json is no JSON"):
        compose(command, [f"{key}={tmp_path}"])


def test_a_stored_model_gives_the_shape_and_its_context_counts(folder: Path) -> None:
    given = [f"rl.checkpoint={folder}"]
    assert compose("zero", [*given, "sampling.max_response_tokens=400"]).model.hidden_size == 96
    with pytest.raises(ConfigError, match="max_position_embeddings=512"):
        compose("zero", [*given, "sampling.max_response_tokens=500"])
    with pytest.raises(ConfigError, match="model.hidden_size=128: rl.checkpoint=.* has 96"):
        compose("zero", [*given, "model=tiny"])


def test_the_newest_readable_checkpoint_of_a_run_gives_the_shape(tmp_path: Path) -> None:
    for step, text in (("1", json.dumps({"model": to_dict(ModelConfig(hidden_size=64))})), ("2", "{half")):
        path = tmp_path / "checkpoints" / f"step_0000000{step}" / "meta.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert compose("zero", [f"rl.checkpoint={tmp_path}"]).model.hidden_size == 64


def test_plain_form_keeps_every_field() -> None:
    cfg = compose("pretrain", ["task.names=[countdown,gcd]", "model.q_lora_rank=null"])
    plain = json.loads(json.dumps(to_dict(cfg)))
    assert list(plain) == [f.name for f in dataclasses.fields(Config)]
    assert plain["pretrain"]["optimizer"]["name"] == "muon"
    assert plain["task"]["names"] == ["countdown", "gcd"]
    assert plain["model"]["q_lora_rank"] is None


def test_a_saved_config_is_whole_and_protects_its_run(tmp_path: Path) -> None:
    cfg = compose("pretrain")
    path = save_config(cfg, tmp_path)
    assert yaml.safe_load(path.read_text()) == to_dict(cfg)
    save_config(compose("pretrain", ["pretrain.tokens=8_000_000"]), tmp_path)  # a longer run may go on
    with pytest.raises(ConfigError, match="model.hidden_size=256: the run in .* has 128"):
        save_config(compose("pretrain", ["model=small"]), tmp_path)
    assert yaml.safe_load(path.read_text())["pretrain"]["tokens"] == 8_000_000
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("change", ["run.seed=1", "reward.format=0.2", "corpus.carelessness=0.5", "task=mix"])
def test_another_run_in_the_same_folder_is_refused(change: str, tmp_path: Path) -> None:
    save_config(compose("reproduce"), tmp_path)
    with pytest.raises(ConfigError, match="another run.dir"):
        save_config(compose("reproduce", [change]), tmp_path)


def test_a_longer_run_goes_on_but_a_finished_one_is_not_relabelled(tmp_path: Path) -> None:
    save_config(compose("reproduce"), tmp_path)
    save_config(compose("reproduce", ["rl.steps=100"]), tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    save_config(compose("reproduce", ["rl.steps=100"]), tmp_path)
    with pytest.raises(ConfigError, match="rl.steps=200"):
        save_config(compose("reproduce", ["rl.steps=200"]), tmp_path)


def test_a_finished_run_of_an_earlier_version_is_known_again_and_never_taken_for_another(tmp_path: Path) -> None:
    """Before the objectives had names, rl.advantage=group_std was what auto is now."""
    cfg = compose("reproduce")
    old = to_dict(cfg)
    old["rl"] |= {"advantage": "group_std", "objective": {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0}}
    del old["rl"]["ppo"], old["long2short"]
    old["rl"]["gone"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    (tmp_path / "summary.json").write_text("{}")
    refuse_other_run(cfg, tmp_path)
    for change, said in (
        (
            "rl.advantage=group_mean",
            "rl.advantage=group_mean: the run in .* has group_std; set that, or another run",
        ),
        ("rl.objective.tau=2", "rl.objective.tau=2.0: .* a version that knew no such setting; leave it out, or"),
        ("rl.objective.name=rloo", "rl.advantage=leave_one_out: the run in .* has group_std"),
    ):
        with pytest.raises(ConfigError, match=said):
            refuse_other_run(compose("reproduce", [change]), tmp_path)


def test_a_network_from_a_folder_is_trained_with_the_products_that_are_asked_for(folder: Path) -> None:
    given = [f"rl.checkpoint={folder}", "sampling.max_response_tokens=200", "model.fp8=emulated"]
    cfg = compose("zero", given)
    assert cfg.model.fp8 is Fp8.emulated and cfg.model.hidden_size == 96
    with pytest.raises(ConfigError, match="model.dtype=fp32: model.fp8=torch .*set model.dtype=bf16"):
        compose("zero", [*given[:2], "model.fp8=torch"])
    with pytest.raises(ConfigError, match="model.fp8=emulated: .* has none; leave it out"):
        compose("evaluate", [f"evaluate.checkpoint={folder}", *given[1:]])


def test_dpo_needs_pairs_and_ppo_is_ppo(folder: Path) -> None:
    given = [f"dpo.checkpoint={folder}", "sampling.max_response_tokens=200"]
    for more, said in (([], "there are no preference pairs"), (["dpo.data=nowhere.jsonl"], "is not there")):
        with pytest.raises(ConfigError, match=f"dpo.data=.*{said}.*JSONL or Parquet"):
            compose("dpo", [*given, *more])
    given[0] = f"rl.checkpoint={folder}"
    assert compose("ppo", given).rl.objective.name is ObjectiveName.ppo
    with pytest.raises(ConfigError, match="rl.objective.name=rloo: r1 ppo is PPO"):
        compose("ppo", [*given, "rl.objective.name=rloo", "rl.objective.kl_in_reward=false"])
    assert compose("zero", [*given, "rl.objective.name=rloo"]).rl.objective.name is ObjectiveName.rloo


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("rlaif", [], "rlaif.judge.url='': there is no judge"),
        ("rlaif", ["judge.url=http://a/v1"], "rlaif.judge.model='': the server has to be told"),
        ("zero", ["reward.judge_weight=1"], "reward.judge.url='': there is no judge"),
        ("reward_model", ["reward_model.held_out=1"], "reward_model.held_out=1"),
    ],
)
def test_preferences_without_a_source_are_refused(command: str, given: list[str], said: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(command, [f"{HERE[command]}={folder}", "sampling.max_response_tokens=200", *given])


def test_how_a_judge_is_asked_may_change_when_a_run_goes_on(folder: Path, tmp_path: Path) -> None:
    judge = ["reward.judge_weight=1", "reward.judge.url=http://a/v1", "reward.judge.model=m"]
    given = [f"rl.checkpoint={folder}", "sampling.max_response_tokens=200", *judge]
    save_config(compose("zero", given), tmp_path / "run")
    save_config(compose("zero", [*given, "reward.judge.retries=9"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="reward.judge.model=m2"):
        save_config(compose("zero", [*given[:-1], "reward.judge.model=m2"]), tmp_path / "run")
