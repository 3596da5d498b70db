"""Pre-training: documents -> next-token and MTP loss -> a base model (V3 §4)."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from infra.errors import ConfigError
from infra.tracking import Tracker
from modeling import hf
from modeling.config import ModelConfig
from modeling.mtp import mtp_acceptance
from modeling.router import maxvio
from modeling.tokenizer import Tokenizer
from training import parallel
from training.data.corpus import CorpusConfig, documents
from training.data.stream import DocumentStream
from training.loop import LoopConfig, run_loop
from training.losses import next_token_loss
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.schedules import Schedule, ScheduleConfig
from training.state import TrainState, build_state
from training.step import token_logprobs, train_step


class Rows(Enum):
    """How documents become rows; in neither does attention cross a document's end."""

    by_length = "by_length"
    packed = "packed"


@dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """The pre-training stage."""

    tokens: int = 4_000_000
    "Tokens to train on."
    batch_tokens: int = 4096
    "Tokens of one optimiser step, over all ranks."
    micro_batch_tokens: int = 4096
    "Padded tokens of one forward and backward pass on one rank."
    rows: Rows = Rows.by_length
    "by_length: a document a row, rows of like length together; packed: rows filled with several documents."
    tokenizer_vocab: int = 1536
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
    "How many such documents."
    save_every: int = 200
    "Steps between checkpoints."

    def __post_init__(self) -> None:
        for key in ("tokens", "batch_tokens", "micro_batch_tokens", "evaluate_every", "save_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"pretrain.{key}", getattr(self, key), "nothing would be trained", "set at least 1")
