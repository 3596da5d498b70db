"""Parameters of one GPU: what Megatron cuts over tensor ranks, what it repeats on each, and the experts."""

from dataclasses import dataclass

from modeling.config import ModelConfig
from training.config import ParallelConfig
from training.layout import Stage


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of one GPU, by how often they exist."""

    dense: int = 0
    "All but the routed experts: one copy in every data-parallel rank."
    expert: int = 0
    "Routed experts: one copy in every expert-data-parallel rank."

    def __add__(self, other: "Params") -> "Params":
        return Params(self.dense + other.dense, self.expert + other.expert)

    def __mul__(self, count: int) -> "Params":
        return Params(self.dense * count, self.expert * count)

    @property
    def total(self) -> int:
        """Both."""
        return self.dense + self.expert


def attention_params(model: ModelConfig) -> tuple[int, int]:
    """(cut over tensor ranks, repeated on each) of one layer's MLA: the down-projections and the norms are repeated."""
    h, n = model.hidden_size, model.num_attention_heads
    query = n * (model.qk_nope_head_dim + model.qk_rope_head_dim)
    cut = model.kv_lora_rank * n * (model.qk_nope_head_dim + model.v_head_dim) + n * model.v_head_dim * h
    repeated = h * (model.kv_lora_rank + model.qk_rope_head_dim) + model.kv_lora_rank + 2 * h
    if model.q_lora_rank is None:
        return cut + h * query, repeated
    return cut + model.q_lora_rank * query, repeated + model.q_lora_rank * (h + 1)


def up_proj_params(model: ModelConfig) -> int:
    """What `mla_up_proj` computes: the up-projections of query, key and value (V3 eq. 3, 5, 7, 9)."""
    query = model.num_attention_heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
    key_value = model.num_attention_heads * (model.qk_nope_head_dim + model.v_head_dim)
    return (model.q_lora_rank or model.hidden_size) * query + model.kv_lora_rank * key_value


def dense_mlp_params(model: ModelConfig) -> int:
    """A dense layer's SwiGLU."""
    return 3 * model.hidden_size * model.intermediate_size


def expert_params(model: ModelConfig) -> int:
    """One expert's SwiGLU."""
    return 3 * model.hidden_size * model.moe_intermediate_size


def router_params(model: ModelConfig) -> int:
    """One router, with its bias."""
    return model.n_routed_experts * (model.hidden_size + model.has_expert_bias)


def layer_params(model: ModelConfig, parallel: ParallelConfig, moe: bool) -> Params:
    """One decoder layer on one GPU."""
    cut, repeated = attention_params(model)
    if not moe:
        return Params(repeated + (cut + dense_mlp_params(model)) // parallel.tensor)
    cut += model.n_shared_experts * expert_params(model)
    experts = model.n_routed_experts // parallel.expert * expert_params(model)
    return Params(repeated + router_params(model) + cut // parallel.tensor, experts)


def stage_params(model: ModelConfig, parallel: ParallelConfig, stage: Stage) -> Params:
    """One pipeline stage on one GPU. An MTP module away from the embedding brings a copy of it, as Megatron has it."""
    h, vocab = model.hidden_size, model.vocab_size * model.hidden_size // parallel.tensor
    moe = layer_params(model, parallel, moe=True)
    total = layer_params(model, parallel, moe=False) * stage.dense(model) + moe * stage.moe(model)
    total += (moe + Params(2 * h * h // parallel.tensor + 3 * h)) * stage.mtp
    if stage.embedding or stage.mtp:
        total += Params(vocab)
    if stage.loss:
        total += Params(vocab + h)
    return total


def rank_params(model: ModelConfig, parallel: ParallelConfig, own: list[Stage]) -> Params:
    """All stages of one pipeline rank. Embedding and MTP module on one rank share the embedding (V3 section 3.2.3)."""
    total = sum((stage_params(model, parallel, stage) for stage in own), Params())
    copies = sum(stage.embedding or stage.mtp > 0 for stage in own)
    vocab = model.vocab_size * model.hidden_size // parallel.tensor
    return total + Params(-vocab * (copies - 1)) if copies > 1 else total
