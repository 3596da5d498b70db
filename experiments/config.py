"""The root of all settings, and the checks that reach across its parts. Loads without torch."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from agents.config import AgentsConfig, DatagenConfig
from experiments import checks, overrides, stored
from experiments.claims.config import ClaimConfig
from experiments.convert import ConvertConfig
from experiments.curves_config import CompareConfig, ReferenceConfig
from experiments.r1_config import LineageConfig, R1Config
from experiments.reads import ALIASES, FILES, FOLDERS, NEEDED, SHORT, STAGED, STAGES
from experiments.tokenize_data import TokenizeConfig
from infra.errors import ConfigError
from infra.hardware import DoctorConfig
from infra.launch_config import LaunchConfig
from infra.planner.config import PlanSettings
from infra.planner.hardware import ClusterConfig
from infra.report_config import ReportConfig
from infra.serve_config import ServeConfig
from modeling.config import Head, ModelConfig, Modules
from modeling.presets import PRESETS
from modeling.sampling import SamplingConfig
from rl.config import RLConfig
from rl.dpo_config import DPOConfig
from rl.evaluate import EvaluateConfig
from rl.long2short import Long2ShortConfig
from rl.objective_config import ObjectiveName
from rl.reward_model_config import RewardModelConfig
from rl.rewards.base import RewardConfig
from rl.rlaif_config import RLAIFConfig
from rl.stages.config import CaptionsConfig, ColdStartConfig, FilterConfig, RejectionConfig, ScenariosConfig
from rl.tasks.base import TaskConfig
from training.config import ParallelConfig, PretrainConfig, SFTConfig
from training.data.corpus import CorpusConfig

SCALES = ("tiny", "small", "gpu", "cluster")
GROUPS = ("model", "scale", "cluster", "stage", "task", "launch", "experiment")
"Each option of a group is a file in conf/<group>, but for model, whose options are modeling.presets.PRESETS."
CONF = Path(__file__).resolve().parent / "conf"


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Where a run keeps its files."""

    dir: str = ""
    "Folder of the run; empty: runs/<name>. The same command in the same folder goes on where it was."
    name: str = ""
    "Name of the run in MLflow; empty: the command's."
    seed: int = 0
    "Seed of weights, corpus and sampling; the questions of RL follow task.seed."

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ConfigError("run.seed", self.seed, "is out of range", "set it from 0 to 2147483647")


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """MLflow. Metrics and samples are in the run's folder in any case."""

    uri: str = "sqlite:///runs/mlflow.db"
    "Tracking server or store; empty: no MLflow."
    experiment: str = "r1lab"
    "Experiment under which runs are filed."
    enabled: bool = True
    "Whether anything is sent to MLflow."

    def __post_init__(self) -> None:
        if not self.experiment:
            raise ConfigError("tracking.experiment", "''", "a run needs an experiment", "set r1lab")


@dataclass(kw_only=True, slots=True)
class ReproduceConfig:
    """The journey of `r1 reproduce`."""

    base: str = ""
    "Folder of a base model to start from; empty: pre-train one."


@dataclass(kw_only=True, slots=True)
class GenerateConfig:
    """Talking to a model."""

    checkpoint: str = ""
    "A run, a checkpoint or a Hugging Face folder; empty: the newest run's model, else the released base."
    prompt: str = ""
    'A question such as "Make 19 from 3, 5, 8."; empty: questions are read from the terminal.'


@dataclass(kw_only=True, slots=True)
class Config:
    """All settings of a command. What reaches across parts is checked here."""

    scale: str = "tiny"
    "tiny and small (CPU cores: minutes, hours), gpu (one machine), cluster (SLURM, torchrun): sizes, never other code."
    run: RunConfig = field(default_factory=RunConfig)
    "Where a run keeps its files."
    model: ModelConfig = field(default_factory=ModelConfig)
    "The network's shape; model=tiny|small|16b|v2_lite|671b takes a whole one."
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    "The layout over processes."
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    "The machine; cluster=h800x2048|h100x1024|b200x256|... takes one with its best published layout."
    plan: PlanSettings = field(default_factory=PlanSettings)
    "What `r1 plan` works out."
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    "What pre-training reads."
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    "The pre-training stage."
    sft: SFTConfig = field(default_factory=SFTConfig)
    "Supervised fine-tuning: of cold_start, sft, distill and captions."
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    "An encoder of images, and the captions it learns from."
    rl: RLConfig = field(default_factory=RLConfig)
    "The RL stage: of zero, ppo, reasoning and all_scenarios."
    dpo: DPOConfig = field(default_factory=DPOConfig)
    "The DPO stage."
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    "What the cold start's set is made of."
    rejection: RejectionConfig = field(default_factory=RejectionConfig)
    "Rejection sampling."
    filter: FilterConfig = field(default_factory=FilterConfig)
    "What readable thinking is."
    all_scenarios: ScenariosConfig = field(default_factory=ScenariosConfig)
    "RL for all scenarios."
    task: TaskConfig = field(default_factory=TaskConfig)
    "What is asked."
    reward: RewardConfig = field(default_factory=RewardConfig)
    "What is paid for."
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    "Training a reward model."
    rlaif: RLAIFConfig = field(default_factory=RLAIFConfig)
    "Preference pairs from a judge."
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    "How answers are drawn."
    long2short: Long2ShortConfig = field(default_factory=Long2ShortConfig)
    "From a model that thinks long to one that thinks short."
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    "What is measured on held-out questions."
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    "MLflow."
    reproduce: ReproduceConfig = field(default_factory=ReproduceConfig)
    "The journey of `r1 reproduce`."
    r1: R1Config = field(default_factory=R1Config)
    "The graph of `r1 r1`."
    claim: ClaimConfig = field(default_factory=ClaimConfig)
    "The papers' claims."
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    "Reference curves."
    compare: CompareConfig = field(default_factory=CompareConfig)
    "A run against a reference."
    lineage: LineageConfig = field(default_factory=LineageConfig)
    "Where a model comes from."
    report: ReportConfig = field(default_factory=ReportConfig)
    "A run as a page."
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    "Talking to a model."
    serve: ServeConfig = field(default_factory=ServeConfig)
    "The server of `r1 serve`."
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    "Models from elsewhere and for elsewhere."
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    "Texts of your own as token files."
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    "What `r1 doctor` looks at."
    agents: AgentsConfig = field(default_factory=AgentsConfig)
    "Agents over a served model."
    datagen: DatagenConfig = field(default_factory=DatagenConfig)
    "Test data made by a served model."
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    "Jobs; launch=local|slurm takes the usual settings of a place."

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError("scale", self.scale, "is no scale", f"choose one of {', '.join(SCALES)}")
        if self.model.head is not Head.tokens:
            problem = "a reward model writes no text and is no start for training"
            raise ConfigError("model.head", self.model.head.name, problem, "give a language model (model.head=tokens)")
        checks.check(self)
        if self.pretrain.tokens < self.pretrain.batch_tokens:
            raise ConfigError(
                "pretrain.tokens",
                self.pretrain.tokens,
                f"is less than one step of pretrain.batch_tokens={self.pretrain.batch_tokens}",
                "set a multiple of it",
            )


def _sets_stage(item: str) -> bool:
    """Whether it is an experiment that says which stage's settings it takes."""
    group, _, option = item.partition("=")
    path = CONF / "experiment" / f"{option}.yaml"
    return group == "experiment" and path.exists() and "override /stage:" in path.read_text()


def compose(
    command: str, given: Sequence[str] = (), *, ready: bool = True, made: bool = True, data: bool = True
) -> Config:
    """The settings of a command under `key=value` overrides, judged.

    The network's shape is that of the folder that the command starts from, where it starts from one; model=hf:x starts
    from a Hugging Face folder or a model's name on the Hub. ready: whether what the command cannot do without has to be
    given. made: whether that folder is there; else its shape is taken to be the one that is set. data: whether the file
    that it reads is there, which an earlier job of a chain may have to write. Settings of the command's own section may
    be typed without it: `nproc=2`. Raises ConfigError for an unknown key, group option or type, and for values that
    cannot work.
    """
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf, open_dict

    given = [_alias(command, item) for item in given]
    given = overrides.full(given, SHORT.get(command, command), Config, GROUPS)
    given = stored.with_folder(command, FOLDERS.get(command, ""), given)
    with _hydra() as options_of:
        composed, texts = overrides.prepare(given, Config, GROUPS, options_of)
        if not any(item.startswith("stage=") or _sets_stage(item) for item in composed):
            composed.insert(0, f"stage={STAGES.get(command, 'zero')}")
        cfg = hydra_compose("config", overrides=composed, return_hydra_config=True)
    preset = ModelConfig.preset(cfg.hydra.runtime.choices.model)
    with open_dict(cfg):
        del cfg.hydra
    key = FOLDERS.get(command, "")
    written = OmegaConf.select(cfg, key) if key and ready else ""
    if written and written.startswith("hf:") and key not in texts:  # a YAML's, as of a student of R1 §2.4
        texts[key] = str(stored.from_hub(key, written))
    shape = stored.model_of(key, texts[key]) if texts.get(key) and made else None
    if shape is not None:
        given_keys = {item.partition("=")[0] for item in composed}
        asked = OmegaConf.to_object(cfg.model)
        if command in STAGED:  # how products are computed is not the folder's to say
            shape = dataclasses.replace(shape, fp8=asked.fp8)
        if command == "pretrain":
            shape = stored.with_context(shape, asked, preset, given_keys)
        stored.check_shape(key, texts[key], shape, asked, given_keys)
        if asked.modules is not Modules.auto:  # how it is computed, and not what
            shape = dataclasses.replace(shape, modules=asked.modules)
        cfg.model = OmegaConf.structured(shape)
    judged = OmegaConf.to_object(cfg)
    for name, value in texts.items():
        judged = overrides.replace_text(judged, name, value)
    for needed in NEEDED.get(command, ()) if ready else ():
        if needed != FILES.get(command) and not texts.get(needed):
            what = "set to read; r1 rejection makes one" if needed == "sft.data" else "model to start from"
            example = "runs/rejection/data.parquet" if needed == "sft.data" else "experiments/base"
            raise ConfigError(needed, "", f"there is no {what}", f"set {needed}={example}")
    if ready and data and command == "dpo" and not Path(judged.dpo.data).is_file():
        problem = "is not there" if judged.dpo.data else "there are no preference pairs"
        raise ConfigError(
            "dpo.data", judged.dpo.data, problem, "give a JSONL or Parquet file of prompt, chosen, rejected"
        )
    if command == "ppo" and judged.rl.objective.name is not ObjectiveName.ppo:
        name = judged.rl.objective.name.name
        raise ConfigError("rl.objective.name", name, "r1 ppo is PPO", "leave it out, or take r1 zero")
    if ready:
        judged.convert.check(command)
        if command == "tokenize":
            judged.tokenize.check()
        if judged.reward.judge_weight:
            judged.reward.judge.check("reward.judge")
        if command == "rlaif":
            judged.rlaif.judge.check("rlaif.judge")
        if command == "long2short":
            judged.long2short.check(judged.reward.length, judged.sampling.max_response_tokens)
        if command == "cold_start":
            judged.cold_start.check()
        if command in ("agents", "datagen"):
            getattr(judged, command).check()
    return judged if judged.run.dir else overrides.replace_text(judged, "run.dir", f"runs/{judged.run.name or command}")


def _alias(command: str, item: str) -> str:
    key, equals, value = item.partition("=")
    return f"{ALIASES.get(command, {}).get(key, key)}{equals}{value}"


def group_options() -> dict[str, list[str]]:
    """The options of each group."""
    with _hydra() as options_of:
        return {group: options_of(group) for group in GROUPS}


@cache
def _register() -> None:
    """The schema and the published shapes, for Hydra to find; once a process, as it takes a third of composing."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, shape in PRESETS.items():
        store.store(group="model", name=name, node=ModelConfig(**shape))


@contextmanager
def _hydra() -> Iterator[Callable[[str], list[str]]]:
    """Hydra on conf/; -> what lists the options of a group."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader().get_group_options


def to_dict(value: Any) -> Any:
    """Plain and JSON-able, for checkpoints and MLflow: dataclasses become dicts, enum members their names."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    return [to_dict(v) for v in value] if isinstance(value, list) else value
