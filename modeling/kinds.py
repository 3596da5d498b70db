"""What a network may be made of: the words that ModelConfig's fields take."""

from enum import Enum


class Family(Enum):
    """Whose network it is; all but deepseek are dense, with grouped-query attention."""

    deepseek = "deepseek"
    llama = "llama"
    qwen2 = "qwen2"
    qwen3 = "qwen3"


class ScoringFunc(Enum):
    """How router logits become affinities (V3 eq. 15 uses the sigmoid, V2 the softmax)."""

    sigmoid = "sigmoid"
    softmax = "softmax"


class Head(Enum):
    """What the last layer says of each token: logits over the vocabulary, or one number (modeling/score_head.py)."""

    tokens = "tokens"
    score = "score"


class Experts(Enum):
    """Which module computes the routed experts."""

    auto = "auto"
    sequential = "sequential"
    batched = "batched"
    grouped = "grouped"


class Modules(Enum):
    """Which building blocks Megatron-core puts together: its local ones or Transformer Engine's."""

    auto = "auto"
    local = "local"
    te = "te"


class DType(Enum):
    """The type of parameters and activations. The router's bias and its counts stay FP32 in either."""

    fp32 = "fp32"
    bf16 = "bf16"


class Fp8(Enum):
    """What computes the linear layers' products in FP8 (modeling/fp8.py)."""

    none = "none"
    auto = "auto"
    te = "te"
    torch = "torch"
    emulated = "emulated"
