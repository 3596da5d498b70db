"""The settings of an RL stage (R1 §2.2; DSM §4.1); without torch."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from rl.objective_config import AdvantageKind, ObjectiveConfig, ObjectiveName, PPOConfig
from training.config import OptimizerConfig
from training.schedules import ScheduleConfig


class LossWeighting(Enum):
    """How tokens are averaged."""

    per_answer = "per_answer"
    token_mean = "token_mean"


class OldLogprobs(Enum):
    """Whose logprobs the ratio is taken against."""

    trainer = "trainer"
    sampler = "sampler"


GRPOConfig = ObjectiveConfig
"The name that it had while GRPO was the only objective."


class EngineName(Enum):
    """Who writes the answers."""

    local = "local"
    megatron = "megatron"
    vllm = "vllm"


class Placement(Enum):
    """Where the sampler's weights live."""

    colocated = "colocated"
    separate = "separate"


class WeightSync(Enum):
    """How vLLM takes over new weights."""

    reload = "reload"
    restart = "restart"


class PartialLoss(Enum):
    """Which segments of an answer written over several steps are trained on."""

    last = "last"
    all = "all"


class QuestionOrder(Enum):
    """In which order questions are asked."""

    in_order = "in_order"
    curriculum = "curriculum"
    uniform = "uniform"
    prioritised = "prioritised"

    @property
    def pooled(self) -> bool:
        """Whether questions come out of a pool, and come again."""
        return self in (QuestionOrder.uniform, QuestionOrder.prioritised)


@dataclass(kw_only=True, slots=True)
class QuestionsConfig:
    """Which training questions are asked when (K §2.3.4)."""

    order: QuestionOrder = QuestionOrder.in_order
    "in_order (each once) or curriculum (easy to hard); out of a pool: uniform or prioritised (by 1 - success rate)."
    pool: int = 1024
    "Questions that uniform and prioritised draw from: the task's first ones."

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ConfigError("rl.questions.pool", self.pool, "leaves nothing to ask", "set 1024")


@dataclass(kw_only=True, slots=True)
class VLLMConfig:
    """vLLM's server, in an environment of its own (`make vllm-env`); read where rl.rollout.engine=vllm."""

    url: str = ""
    "A server that runs already, on the folder run.dir/sampler and with VLLM_SERVER_DEV_MODE=1; empty: start one."
    python: str = ".venv-vllm/bin/python"
    "Interpreter of vLLM's environment."
    tensor: int = 1
    "GPUs that the server cuts each matrix over."
    sync: WeightSync = WeightSync.reload
    "New weights by reload in the running server, or by restart: slower, and independent of its development endpoints."
    start_timeout_s: float = 1800.0
    "Seconds until a started server has to answer."
    request_timeout_s: float = 3600.0
    "Seconds until a group of answers has to be there."
    retries: int = 3
    "Further attempts at a request that failed for want of a connection or by an error of the server."
    requests: int = 64
    "Groups asked for at the same time by one rank."

    def __post_init__(self) -> None:
        for key in ("tensor", "start_timeout_s", "request_timeout_s", "requests"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"rl.rollout.vllm.{key}", getattr(self, key), "has to be positive", "set 1 or more")
        if self.retries < 0:
            raise ConfigError("rl.rollout.vllm.retries", self.retries, "cannot be negative", "set 0 for none")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError("rl.rollout.vllm.url", self.url, "is no address", "set it as in http://10.0.0.1:8000")
        if self.url and self.sync is WeightSync.restart:
            raise ConfigError(
                "rl.rollout.vllm.sync",
                "restart",
                "a server at rl.rollout.vllm.url is not ours to restart",
                "set reload",
            )


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """Who writes the answers, where, and when."""

    engine: EngineName = EngineName.local
    "local (modeling/generate.py), megatron (Megatron's dynamic engine in process) or vllm (a server); two need CUDA."
    placement: Placement = Placement.colocated
    "colocated: on the trainer's devices, in turn with it; separate: the sampler keeps weights and memory of its own."
    devices: str = ""
    "CUDA devices of a separate sampler, as in 4,5,6,7; empty: the trainer's."
    one_step_off: bool = False
    "Write the next step's answers while this one trains, with the weights it began with; needs placement=separate."
    partial_tokens: int = 0
    "Tokens by which an answer grows in a step at most; the unfinished go on in the next (K §2.6.2). 0: whole answers."
    partial_loss: PartialLoss = PartialLoss.last
    "last: train on each answer's last segment, earlier ones are context; all: on every token (set rl.importance_cap)."
    repeat_ngram: int = 0
    "End an unfinished answer whose last so many tokens stand in it repeat_times times; 0: off. With partial_tokens."
    repeat_times: int = 4
    "Occurrences, without overlap, that make a repetition."
    gpu_memory: float = 0.85
    "Share of a GPU's memory that vllm may take (lower where colocated)."
    cache_gib: int = 20
    "GiB of a GPU that megatron's key-value cache takes."
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    "vLLM's server."

    def __post_init__(self) -> None:
        separate = self.placement is Placement.separate
        if self.one_step_off and not separate:
            raise ConfigError(
                "rl.rollout.one_step_off",
                "true",
                "the trainer would change the weights while answers are written with them",
                "set rl.rollout.placement=separate",
            )
        if self.one_step_off and self.engine is EngineName.megatron:
            raise ConfigError(
                "rl.rollout.one_step_off",
                "true",
                "Megatron's inference mode is one for the whole process, training included",
                "set rl.rollout.engine=vllm or local",
            )
        if self.devices and (not separate or self.engine is EngineName.megatron):
            why = "a colocated sampler is" if not separate else "Megatron's process groups are"
            remedy = "set rl.rollout.placement=separate" if not separate else "set rl.rollout.devices="
            raise ConfigError("rl.rollout.devices", self.devices, f"{why} on the trainer's devices", remedy)
        if not all(part.isdigit() for part in self.devices.split(",") if self.devices):
            raise ConfigError("rl.rollout.devices", self.devices, "is no list of numbers", "set it as in 4,5,6,7")
        if self.vllm.url and not separate:
            raise ConfigError(
                "rl.rollout.vllm.url",
                self.vllm.url,
                "a server that runs already keeps its GPUs",
                "set rl.rollout.placement=separate",
            )
        self._check_partial()
        if not 0 < self.gpu_memory < 1:
            raise ConfigError("rl.rollout.gpu_memory", self.gpu_memory, "is a share", "set it between 0 and 1")
        if self.cache_gib < 1:
            raise ConfigError("rl.rollout.cache_gib", self.cache_gib, "leaves no cache", "set 1 or more")

    @property
    def older_weights(self) -> bool:
        """Whether the settings let answers be written, in part or whole, by weights of earlier steps."""
        return self.one_step_off or self.partial_tokens > 0

    def _check_partial(self) -> None:
        for key, least in (("partial_tokens", 0), ("repeat_ngram", 0), ("repeat_times", 2)):
            if getattr(self, key) < least:
                value = getattr(self, key)
                raise ConfigError(f"rl.rollout.{key}", value, f"has to be {least} or more", f"set {least}")
        if self.repeat_ngram and not self.partial_tokens:
            raise ConfigError(
                "rl.rollout.repeat_ngram",
                self.repeat_ngram,
                "repetition is looked for between the parts of an answer, and answers are written at once",
                "set rl.rollout.partial_tokens=64, or rl.rollout.repeat_ngram=0",
            )
        if self.partial_tokens and self.engine is not EngineName.local:
            raise ConfigError(
                "rl.rollout.partial_tokens",
                self.partial_tokens,
                f"{self.engine.name} writes whole answers only",
                "set rl.rollout.engine=local, or rl.rollout.partial_tokens=0",
            )
        if self.partial_tokens and self.one_step_off:
            raise ConfigError(
                "rl.rollout.partial_tokens",
                self.partial_tokens,
                "one_step_off orders whole answers a step ahead",
                "set rl.rollout.one_step_off=false, or rl.rollout.partial_tokens=0",
            )


@dataclass(kw_only=True, slots=True)
class RLConfig:
    """One RL stage; R1-Zero at full scale: 32 questions x 16 answers, lr 3e-6, kl 0.001, clip 10 (R1 §2.2)."""

    checkpoint: str = ""
    "The model to start from: a run, a checkpoint or a Hugging Face folder."
    steps: int = 64
    "RL steps: rollout, reward, update."
    questions_per_step: int = 16
    "Questions asked in a step."
    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    "Which training questions are asked when."
    group_size: int = 16
    "Answers to each question; the group is its own baseline."
    minibatches: int = 2
    "Optimiser updates in a step, each on a random part of its answers."
    advantage: AdvantageKind = AdvantageKind.auto
    """group_std (R1 eq. 3), group_mean (without the std), leave_one_out, batch_mean or log_partition (Kimi's estimate
    of tau log Z); auto: the objective's own (grpo group_std, rloo leave_one_out, reinforce batch_mean, mirror_descent
    group_mean)."""
    negative_gradients: bool = True
    "Whether answers below the baseline are made less likely; false learns from the better ones alone (K §3.5: ReST)."
    loss_weighting: LossWeighting = LossWeighting.per_answer
    "per_answer (1/|o|, DSM eq. 3) or token_mean."
    drop_zero_variance: bool = True
    "Leave out groups whose answers all scored the same; with kl_coef > 0 they stay, as their KL has a gradient."
    old_logprobs: OldLogprobs = OldLogprobs.trainer
    "Whose logprobs are the ratio's denominator; sampler saves a forward pass where both run the same modules."
    importance_cap: float = 0.0
    "Weigh each token by min(cap, p_trainer / p_sampler), for answers of another engine or of older weights; 0: off."
    reference_every: int = 400
    "Steps after which the reference policy is replaced by the present one (R1: 400); read where kl_coef > 0."
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    "What is minimised: its name, clip range and KL weight."
    ppo: PPOConfig = field(default_factory=PPOConfig)
    "PPO's value model and advantages; read where rl.objective.name=ppo."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-4, beta2=0.99, weight_decay=0.0))
    "The optimiser of the policy."
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            warmup=0.0, decay=0.0, mtp_lambda=0.0, mtp_lambda_late=0.0, bias_speed=0.0
        )
    )
    "Learning rate over the stage; MTP and the router's bias rest by default."
    micro_batch_tokens: int = 8192
    "Padded tokens of one forward and backward pass on one rank."
    sample_groups: int = 4
    "Groups of each step whose answers are kept, all of them, for the dashboard."
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    "Who writes the answers, where, and when."
    rollout_rows: int = 128
    "Answers written at the same time on one rank."
    evaluate_every: int = 10
    "Steps between small evaluations on held-out questions."
    save_every: int = 10
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        if self.group_size < (2 if self.objective.name.compares_in_group else 1):
            raise ConfigError("rl.group_size", self.group_size, "a group needs 2 answers for a mean", "set 8")
        for key in (
            "steps questions_per_step minibatches reference_every evaluate_every save_every "
            "micro_batch_tokens rollout_rows"
        ).split():
            if getattr(self, key) < 1:
                raise ConfigError(f"rl.{key}", getattr(self, key), "nothing would happen", "set at least 1")
        if self.importance_cap < 0:
            raise ConfigError("rl.importance_cap", self.importance_cap, "cannot be negative", "set 2.0, or 0 for none")
        if self.importance_cap > 0 and self.old_logprobs is OldLogprobs.sampler:
            raise ConfigError(
                "rl.importance_cap",
                self.importance_cap,
                "with rl.old_logprobs=sampler the ratio itself is against the sampler",
                "set rl.old_logprobs=trainer, or rl.importance_cap=0",
            )
        self._check_objective()
        if self.sample_groups < 0:
            raise ConfigError("rl.sample_groups", self.sample_groups, "cannot be negative", "set 0 to keep none")
        if self.questions.order.pooled and self.questions.pool < self.questions_per_step:
            raise ConfigError(
                "rl.questions.pool",
                self.questions.pool,
                f"a step asks {self.questions_per_step} different questions",
                f"set {self.questions_per_step} or more",
            )
        answers = self.questions_per_step * self.group_size
        if self.minibatches > answers:
            raise ConfigError(
                "rl.minibatches", self.minibatches, f"a step has {answers} answers", f"set at most {answers}"
            )

    def _check_objective(self) -> None:
        """Raise ConfigError for what the objective cannot do."""
        name = self.objective.name
        if self.importance_cap > 0 and name.weighs_answers:
            raise ConfigError(
                "rl.importance_cap",
                self.importance_cap,
                f"weighs single tokens, and rl.objective.name={name.name} whole answers",
                "set rl.importance_cap=0, or rl.objective.name=grpo or ppo",
            )
        if self.advantage is not AdvantageKind.auto and name is ObjectiveName.ppo:
            raise ConfigError(
                "rl.advantage", self.advantage.name, "ppo's advantages come from its value model", "set auto"
            )
        if not self.negative_gradients and name is ObjectiveName.ppo:
            problem = "ppo's advantages come from its value model"
            raise ConfigError("rl.negative_gradients", "false", problem, "set true, or another rl.objective.name")

    @property
    def baseline(self) -> AdvantageKind:
        """The advantage in use."""
        return self.objective.own_advantage if self.advantage is AdvantageKind.auto else self.advantage

    @property
    def drops_zero_variance(self) -> bool:
        """Whether groups without variance are left out of the loss, and of its average.

        Not where they have a gradient: by the KL, by mirror descent's square, or by the value model's advantages.
        """
        held = self.objective.name in (ObjectiveName.ppo, ObjectiveName.mirror_descent)
        return self.drop_zero_variance and self.objective.kl_coef == 0 and not held
