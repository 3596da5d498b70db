"""What is planned: the settings `plan.*`, and PlanConfig, which holds all that plan() needs."""

from dataclasses import dataclass
from enum import Enum

from infra.errors import ConfigError
from infra.planner.hardware import ClusterConfig
from modeling.config import ModelConfig
from training.config import ParallelConfig
from training.layout import near


class Precision(Enum):
    """Type of the matrix products (V3 section 3.3). Attention, head and router follow plan.fp8_attention, fp8_head."""

    bf16 = "bf16"
    fp8 = "fp8"


class Schedule(Enum):
    """Order of forward and backward passes in the pipeline."""

    megatron = "megatron"
    dualpipe = "dualpipe"


class Dispatcher(Enum):
    """How tokens reach their experts."""

    alltoall = "alltoall"
    deepep = "deepep"
    hybridep = "hybridep"


class Graphs(Enum):
    """How much of the step is replayed as CUDA graphs, which spares the launches."""

    none = "none"
    partial = "partial"
    full = "full"


class Grads(Enum):
    """Type in which gradients are accumulated and reduced."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(kw_only=True, slots=True)
class PlanSettings:
    """What is planned, and how the run computes."""

    tokens: float = 14.8e12
    """Tokens to pre-train on (V3 section 4.2)."""
    seq_len: int = 4096
    """Tokens of a row."""
    global_batch: int = 15360
    """Rows of one optimiser step (V3 section 4.2)."""
    micro_batch: int = 1
    """Rows of one forward and backward pass."""
    precision: Precision = Precision.fp8
    """Matrix products: fp8 (1x128 tiles on Hopper, MXFP8 on Blackwell) or bf16."""
    fp8_attention: bool = False
    """Whether the attention core is in FP8, too."""
    fp8_head: bool = False
    """Whether the head is in FP8, too."""
    fp8_dispatch: bool = False
    """Whether tokens travel to their experts in FP8 (V3 section 3.3.3); they come back in BF16."""
    fp8_swiglu_input: bool = False
    """Whether the SwiGLU's input is kept in FP8 for the backward pass (V3 section 3.3.3)."""
    grads: Grads = Grads.fp32
    """Gradients: fp32 (V3 section 3.3.3), or bf16 as NVIDIA's benchmarks have them."""
    bf16_moments: bool = True
    """Whether AdamW's two moments are in BF16 (V3 section 3.3.3)."""
    schedule: Schedule = Schedule.megatron
    """megatron: 1F1B, interleaved with parallel.virtual_pipeline; dualpipe: V3 section 3.2.1, which Megatron lacks."""
    dispatcher: Dispatcher = Dispatcher.deepep
    """alltoall sends a token once for each expert; deepep and hybridep once to each node."""
    overlap_dispatch: bool = False
    """Whether sending tokens to experts is overlapped with another micro-batch's computation."""
    dispatch_sms: int = 20
    """Multiprocessors that do the sending while overlapped (V3 section 3.2.2: 20)."""
    overlap_grad_reduce: bool = True
    """Whether gradients are reduced during the last backward pass."""
    graphs: Graphs = Graphs.none
    """CUDA graphs: none, partial (attention and router) or full (the whole step)."""
    kv_tokens: int = 0
    """Tokens that the KV cache of one GPU holds, where it also writes rollouts."""
    context_extension_gpu_hours: float = 0.0
    """GPU hours of the stages that follow: context extension (V3 table 1: 119,000)."""
    post_training_gpu_hours: float = 0.0
    """GPU hours of the stages that follow: post-training (V3 table 1: 5,000)."""
    search: bool = False
    """Whether the layout is searched: the fastest legal one that fits, instead of parallel.*."""
    json: bool = False
    """Whether one JSON object is printed instead of the table."""
    published: bool = False
    """Whether to print published throughputs against this model's, and nothing else."""
    chart: str = "runs/plan/plan.png"
    """Where the bar chart goes; empty: none."""

    def __post_init__(self) -> None:
        for key in ("tokens", "seq_len", "global_batch", "micro_batch"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"plan.{key}", getattr(self, key), "has to be positive", "set it above 0")
        for key in ("kv_tokens", "context_extension_gpu_hours", "post_training_gpu_hours", "dispatch_sms"):
            if getattr(self, key) < 0:
                raise ConfigError(f"plan.{key}", getattr(self, key), "cannot be negative", "set 0 for none")
        if self.precision is Precision.bf16:
            for key in ("fp8_attention", "fp8_head", "fp8_dispatch", "fp8_swiglu_input"):
                if getattr(self, key):
                    raise ConfigError(f"plan.{key}", "true", "plan.precision=bf16", "set plan.precision=fp8")

    @property
    def token_bytes(self) -> tuple[float, float]:
        """Bytes of a number on its way to an expert and back; FP8 has a scale for 128 of them (V3 section 3.3.2)."""
        return (1 + 4 / 128 if self.fp8_dispatch else 2.0), 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """All that plan() needs."""

    model: ModelConfig
    parallel: ParallelConfig
    cluster: ClusterConfig
    settings: PlanSettings

    def __post_init__(self) -> None:
        if self.model.is_dense:
            problem = "the planner knows DeepSeek's family alone"
            raise ConfigError("model.family", self.model.family.name, problem, "set model=671b, 16b or v2_lite")
        if self.settings.dispatch_sms >= self.cluster.spec.sms:
            problem = f"the {self.cluster.gpu.name} has {self.cluster.spec.sms}"
            raise ConfigError("plan.dispatch_sms", self.settings.dispatch_sms, problem, "set fewer, as 20")
        if self.settings.schedule is Schedule.dualpipe and not self.settings.search:
            size = self.parallel.pipeline
            if size % 2:
                legal = near(size, range(2, size + 2, 2))
                problem = "DualPipe sends micro-batches in from both ends, which takes an even number of stages"
                raise ConfigError("parallel.pipeline", size, problem, f"set {legal}")
            if self.parallel.virtual_pipeline > 1:
                problem = "DualPipe has no virtual stages"
                raise ConfigError("parallel.virtual_pipeline", self.parallel.virtual_pipeline, problem, "set 1")
