"""A small network and random rows for the tests of training/."""

import torch

from modeling.config import ModelConfig
from training import parallel
from training.config import OptimizerConfig, ParallelConfig
from training.state import TrainState, build_state
from training.step import MicroBatch

VOCAB, SEQ = 64, 16


def model_config(**changes) -> ModelConfig:
    shape = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        intermediate_size=48,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return ModelConfig(**(shape | changes))


def state(
    seed: int = 0,
    *,
    model: dict | None = None,
    optimizer: dict | None = None,
    layout: dict | None = None,
    stage: str = "pretrain",
    **kwargs,
) -> TrainState:
    """A fresh state; the seed decides its weights."""
    parallel_cfg = ParallelConfig(**(layout or {}))
    parallel.init(parallel_cfg, seed)
    optimizer_cfg = OptimizerConfig(**(optimizer or {}))
    return build_state(model_config(**(model or {})), optimizer_cfg, parallel_cfg, stage=stage, **kwargs)


def rows(seed: int, batch: int = 8, seq: int = SEQ) -> MicroBatch:
    """One step's rows, every position with the same weight."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (batch, seq + 1), generator=generator)
    weights = torch.full((batch, seq), 1 / (batch * seq))
    return MicroBatch(tokens=ids[:, :-1], labels=ids[:, 1:], loss_weights=weights)


def split(step: MicroBatch, parts: int) -> list[MicroBatch]:
    """The step's rows in so many micro-batches."""
    columns = [c.chunk(parts) for c in (step.tokens, step.labels, step.loss_weights)]
    return [MicroBatch(tokens=t, labels=y, loss_weights=w) for t, y, w in zip(*columns, strict=True)]


def share(step: MicroBatch, parts: int = 1) -> list[MicroBatch]:
    """This data-parallel rank's rows of the step, in so many micro-batches."""
    take = slice(parallel.data_rank(), None, parallel.data_size())
    mine = MicroBatch(tokens=step.tokens[take], labels=step.labels[take], loss_weights=step.loss_weights[take])
    return split(mine, parts)


def gradients(trained: TrainState) -> dict[str, torch.Tensor]:
    """What the last step left in the gradient buffers, by parameter."""
    return {name: p.main_grad.clone() for name, p in trained.module.named_parameters()}


def weights(trained: TrainState) -> dict[str, torch.Tensor]:
    """Parameters and the expert bias."""
    return {name: t.detach().clone() for name, t in trained.module.state_dict().items() if torch.is_tensor(t)}


def close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float) -> None:
    """Assert equal names, and values that differ by at most tolerance of the largest of each tensor."""
    assert left.keys() == right.keys()
    for name in left:
        scale = max(right[name].abs().max().item(), 1e-6)
        difference = (left[name] - right[name]).abs().max().item() / scale
        assert difference <= tolerance, f"{name}: {difference:.2e}"
