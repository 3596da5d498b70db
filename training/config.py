"""The settings of training/, in one file without torch: a mistyped one fails in milliseconds, before any import."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError
from training.schedules import Decay, Point, ScheduleConfig, check_points


class Backend(Enum):
    """The communication library."""

    auto = "auto"
    gloo = "gloo"
    nccl = "nccl"


RECOMPUTE = ("full", "mla_up_proj", "layernorm", "moe_act", "mlp", "moe", "shared_experts", "core_attn")
"What can be recomputed: whole layers, or Megatron's recompute_modules."


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """How the work is laid out over processes. What tensor, pipeline and context leave over is data parallel."""

    nproc: int = 0
    """Processes on this machine; 0 takes the scale's own number."""
    tensor: int = 1
    """Ranks that share each matrix."""
    pipeline: int = 1
    """Ranks that the layers are cut over."""
    virtual_pipeline: int = 1
    """Stages on each of those ranks; more of them shrink the pipeline's bubble (interleaved 1F1B)."""
    pipeline_layout: str = ""
    """What each stage holds, as Megatron writes it (training/layout.py); empty: an even cut."""
    expert: int = 1
    """Ranks that share the experts of a layer; taken from the data-parallel ranks."""
    context: int = 1
    """Ranks that share a row's tokens; rows are filled up to a multiple of twice as many."""
    zero1: bool = False
    """Whether the optimiser's state is split over the data-parallel ranks."""
    backend: Backend = Backend.auto
    """gloo or nccl; auto takes nccl where CUDA is there."""
    recompute: list[str] = field(default_factory=list)
    """Computed anew in the backward pass, to save memory: [full], or of mla_up_proj, layernorm, moe_act, mlp, moe,
    shared_experts, core_attn."""

    def __post_init__(self) -> None:
        for name in self.recompute:
            if name not in RECOMPUTE:
                choices = f"choose from {', '.join(RECOMPUTE)}"
                raise ConfigError("parallel.recompute", name, "is no such module", choices)
        if "full" in self.recompute and len(self.recompute) > 1:
            others = ",".join(self.recompute)
            raise ConfigError("parallel.recompute", f"[{others}]", "full covers the others", "set [full]")
        if self.nproc < 0:
            raise ConfigError("parallel.nproc", self.nproc, "cannot be negative", "set 0 for the scale's own number")
        for key in ("tensor", "pipeline", "virtual_pipeline", "expert", "context"):
            if getattr(self, key) < 1:
                raise ConfigError(f"parallel.{key}", getattr(self, key), "has to be positive", "set 1 for none")
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ConfigError(
                "parallel.virtual_pipeline", self.virtual_pipeline, "parallel.pipeline=1 has one stage", "set 1"
            )

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the whole model and the whole optimiser."""
        return self.tensor == self.pipeline == self.expert == 1 and not self.zero1


class OptimizerName(Enum):
    """Which update the hidden matrices get; embeddings, head, router and norms always get AdamW."""

    adamw = "adamw"
    muon = "muon"


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The optimiser (V3 §4.2; Muon as in Moonlight and Keller Jordan's notes)."""

    name: OptimizerName = OptimizerName.adamw
    """adamw for all, or muon for the hidden matrices and adamw for the rest."""
    lr: float = 3e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon; both follow the same schedule."""
    muon_momentum: float = 0.95
    """Momentum of Muon (Nesterov)."""
    muon_rms: float = 0.0
    """RMS of Muon's updates before the learning rate; 0: Jordan's scale. Moonlight: 0.2, with muon_lr=lr (eq. 4)."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of squares."""
    eps: float = 1e-8
    """Added to AdamW's root."""
    weight_decay: float = 0.1
    """Decoupled, times the learning rate; vectors (norms) have none."""
    clip_grad: float = 1.0
    """Largest norm of the gradient over all weights; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        for key in ("lr", "muon_lr", "eps"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"optimizer.{key}", getattr(self, key), "has to be positive", "set it above 0")
        for key in ("weight_decay", "clip_grad", "muon_rms"):
            if getattr(self, key) < 0:
                raise ConfigError(f"optimizer.{key}", getattr(self, key), "cannot be negative", "set 0 for none")
        for key in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"optimizer.{key}", getattr(self, key), "is a decay", "set it from 0 to below 1")


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How often the loop does what is not training."""

    evaluate_every: int = 200
    """Steps between evaluations; one more comes at the end."""
    save_every: int = 200
    """Steps between checkpoints; one more comes at the end."""
    keep_last: int = 2
    """Checkpoints that are kept."""

    def __post_init__(self) -> None:
        for key in ("evaluate_every", "save_every", "keep_last"):
            if getattr(self, key) < 1:
                raise ConfigError(f"loop.{key}", getattr(self, key), "has to be positive", "set at least 1")


class Rows(Enum):
    """How documents become rows; attention crosses a document's end in joined ones alone, as in V3 §4.1."""

    by_length = "by_length"
    packed = "packed"
    joined = "joined"


@dataclass(kw_only=True, slots=True)
class SFTConfig:
    """Supervised fine-tuning (R1 §2.3.1, §2.3.3, §2.4). R1's own: 2 to 3 epochs, batch 128, lr 5e-5 to 5e-6, cosine."""

    checkpoint: str = ""
    "The model to start from: a run, a checkpoint or a Hugging Face folder; hf:owner/name is one on the Hub."
    data: str = ""
    "Conversations: a .jsonl or .parquet file with the columns prompt and response."
    max_bad: float = 0.01
    "Share of the file's rows that may be unusable (no response, no JSON, an id twice); above it nothing is trained."
    epochs: int = 2
    "How often each conversation is read."
    batch_size: int = 16
    "Conversations of one optimiser step, over all ranks."
    micro_batch_tokens: int = 4096
    "Padded tokens of one forward and backward pass on one rank."
    rows: Rows = Rows.packed
    "packed: rows filled with several conversations; by_length: one a row, rows of like length together."
    row_tokens: int = 384
    "Tokens of a packed row; a longer conversation gets a row of its own, up to the model's context."
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, weight_decay=0.0))
    "Optimiser of the stage."
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            warmup=0.05,
            decay=0.95,
            decay_shape=Decay.cosine,
            final_ratio=0.1,
            mtp_lambda=0.0,
            mtp_lambda_late=0.0,
            bias_speed=0.0,
        )
    )
    "Learning rate over the stage; MTP and the router's bias rest by default."
    evaluate_every: int = 20
    "Steps between measurements of the loss on conversations that are not trained on."
    evaluate_rows: int = 64
    "How many such conversations; at most a tenth of all."
    save_every: int = 20
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        for key in "epochs batch_size micro_batch_tokens row_tokens evaluate_every save_every".split():
            if getattr(self, key) < 1:
                raise ConfigError(f"sft.{key}", getattr(self, key), "nothing would be trained", "set at least 1")
        if self.evaluate_rows < 0:
            raise ConfigError("sft.evaluate_rows", self.evaluate_rows, "cannot be negative", "set 0 for none")
        if not 0 <= self.max_bad < 1:
            raise ConfigError("sft.max_bad", self.max_bad, "is a share", "set it from 0 to below 1")
        if self.data and not self.data.endswith((".jsonl", ".parquet")):
            raise ConfigError("sft.data", self.data, "is neither .jsonl nor .parquet", "give one of them")


@dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """The pre-training stage."""

    checkpoint: str = ""
    "A model to go on from with its own tokenizer: a run, a checkpoint or a Hugging Face folder; empty: a new one."
    data: list[str] = field(default_factory=list)
    "Token files of your own (r1 tokenize), without .bin and .idx; empty: the made corpus. Wants rows=joined."
    data_shares: list[float] = field(default_factory=list)
    "Share of the rows that each of them gives; empty: by size."
    held_out_share: float = 0.001
    "Share of their documents that is only evaluated on."
    tokenizer: str = ""
    "Folder with the tokenizer.json they were made with; empty: that of pretrain.checkpoint."
    tokens: int = 4_000_000
    "Tokens to train on."
    batch_tokens: int = 4096
    "Tokens of one optimiser step, over all ranks."
    batch_points: list[Point] = field(default_factory=list)
    "Share of batch_tokens that a step takes, by tokens (V3: [{at: 0, value: 0.2}, {at: 469e9, value: 1}]); empty: all."
    micro_batch_tokens: int = 4096
    "Padded tokens of one forward and backward pass on one rank."
    rows: Rows = Rows.by_length
    "by_length: a document a row; packed: several whole ones a row; joined: end to end, cut where a row is full (V3)."
    tokenizer_vocab: int = 640
    "Vocabulary of the tokenizer, which is trained first, on the corpus."
    tokenizer_documents: int = 20_000
    "Documents that the tokenizer is trained on."
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    "Optimiser of the stage."
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    "Learning rate, MTP weight and bias speed over the stage."
    evaluate_every: int = 200
    "Steps between measurements of the loss on documents that are not trained on."
    evaluate_documents: int = 256
    "How many such documents; rows, where they are joined."
    save_every: int = 200
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        for key in (
            "tokens batch_tokens micro_batch_tokens evaluate_every save_every tokenizer_documents evaluate_documents"
        ).split():
            if getattr(self, key) < 1:
                raise ConfigError(f"pretrain.{key}", getattr(self, key), "nothing would be trained", "set at least 1")
        if self.data:
            self._check_data()
        elif self.tokenizer:
            problem = "the made corpus has a tokenizer trained on it"
            raise ConfigError("pretrain.tokenizer", self.tokenizer, problem, "leave it out, or give pretrain.data")
        check_points("pretrain.batch_points", self.batch_points)
        for point in self.batch_points:
            if not 0 < point.value <= 1:
                raise ConfigError(
                    "pretrain.batch_points",
                    point.value,
                    "is a share of pretrain.batch_tokens",
                    "set above 0, at most 1",
                )

    def _check_data(self) -> None:
        if self.rows is not Rows.joined:
            problem = "token files are read as rows of documents end to end"
            raise ConfigError("pretrain.rows", self.rows.name, problem, "set joined")
        if bool(self.tokenizer) == bool(self.checkpoint):
            problem = "pretrain.data needs one tokenizer, its own or the one of pretrain.checkpoint"
            raise ConfigError("pretrain.tokenizer", self.tokenizer, problem, "give one of the two")
        shares = self.data_shares
        if shares and (len(shares) != len(self.data) or min(shares) <= 0):
            problem = f"wants {len(self.data)} positive numbers, one for each of pretrain.data"
            raise ConfigError("pretrain.data_shares", shares, problem, "leave it out, or give them all")
        if not 0 < self.held_out_share < 1:
            problem = "is a share of the documents"
            raise ConfigError("pretrain.held_out_share", self.held_out_share, problem, "set 0.001")
