"""The training step: the only place where weights change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.errors import TrainingDiverged
from modeling.context import own_part, whole_row
from modeling.mtp import without_mtp
from training import parallel
from training.chunks import chunks
from training.losses import LossFn
from training.micro_batch import MicroBatch
from training.optimizer import clip_gradients, main_param, set_lr
from training.schedules import Now

from megatron.core import parallel_state  # isort: skip  -- after the CPU layer, which parallel installs
from megatron.core.distributed import finalize_model_grads  # isort: skip
from megatron.core.pipeline_parallel import get_forward_backward_func  # isort: skip
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler  # isort: skip

if TYPE_CHECKING:
    from training.state import TrainState


def train_step(state: TrainState, micro_batches: list[MicroBatch], loss_fn: LossFn, now: Now) -> dict[str, float]:
    """One optimiser step. Every rank calls it with as many micro-batches; their loss_weights sum to 1 over all data.

    Tensor, pipeline and context ranks of the same data bring the same micro-batches, with whole rows.

    Returns train/loss, train/grad_norm, train/lr, moe/maxvio and the loss function's metrics, equal on every rank.
    Raises TrainingDiverged, on every rank, where loss or gradient is not finite; then weights, optimiser and expert
    bias are as before.
    """
    micro_batches = [batch.to(parallel.device()) for batch in micro_batches]
    real_tokens, trained_tokens = _count_tokens(micro_batches)
    state.model.zero_grad_buffer()
    state.optimizer.zero_grad()

    # V3 eq. 17 and 25: the balance and MTP losses enter by their gradient, scaled here to the mean over the step.
    config = state.model.config  # of the first of a rank's stages, where Megatron's schedule looks
    config.moe_grad_scale_func = lambda: torch.tensor(1.0 / real_tokens, device=parallel.device())
    config.mtp_grad_scale_func = lambda: now.mtp_lambda
    with _into_buffer(state.linears):
        outputs = _forward_backward(state.model, micro_batches, loss_fn, mtp=now.mtp_lambda > 0)  # reduces over ranks

    state.optimizer.prepare_grads()
    if now.mtp_lambda == 0:
        _hold_still(state.optimizer, state.mtp_params)
    grad_norm = float(state.optimizer.get_grad_norm())
    totals, grad_norm, loads = _sum_over_ranks(outputs, grad_norm, state.routers)
    loss = totals.pop("train/loss")
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):  # the same sums on every rank, so all agree
        raise TrainingDiverged(state.step, loss, grad_norm, state.last_checkpoint)

    _move_expert_bias(state.routers, loads, now.bias_speed)
    state.expert_loads = loads if state.expert_loads is None else state.expert_loads + loads
    clip_gradients(state.optimizer, state.optimizer_cfg.clip_grad, grad_norm)
    set_lr(state.optimizer, state.optimizer_cfg, now.lr_scale)
    state.optimizer.step_with_ready_grads()

    state.updates += 1
    state.tokens_seen += trained_tokens
    own = {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": state.optimizer_cfg.lr * now.lr_scale}
    return own | _maxvio(loads) | totals


@torch.no_grad()
def token_logprobs(model: nn.Module, micro_batches: list[MicroBatch]) -> list[Tensor]:
    """log p(label) of each token, a [batch, seq] FP32 tensor per micro-batch, on every rank. model: wrapped or bare.

    Without gradient and without MTP; the routers' load counts, which move their bias, are not touched.
    """

    def logprobs(token_loss: Tensor) -> tuple[Tensor, int, Tensor]:
        return token_loss.sum(), 0, -token_loss

    if not micro_batches:
        return []
    outputs = _run_schedule(model, micro_batches, lambda batch: logprobs, forward_only=True, mtp=False)
    widths = [batch.tokens.shape[1] for batch in micro_batches]
    outputs = [out[:, :width].contiguous() for out, width in zip(outputs, widths, strict=False)]  # none but on the last
    stages = parallel_state.get_pipeline_model_parallel_group()
    if stages.size() > 1:
        outputs = outputs or [torch.empty(b.labels.shape, device=parallel.device()) for b in micro_batches]
        for logprob in outputs:
            dist.broadcast(logprob, src=parallel_state.get_pipeline_model_parallel_last_rank(), group=stages)
    return outputs


def token_scores(model: nn.Module, micro_batches: list[MicroBatch]) -> list[Tensor]:
    """What a network with model.head=score says of each token; shapes and conditions as token_logprobs'."""
    return [-output for output in token_logprobs(model, micro_batches)]


def _forward_backward(
    model: nn.Module, micro_batches: list[MicroBatch], loss_fn: LossFn, mtp: bool
) -> list[dict[str, Tensor]]:
    """Gradients in the model's buffers, summed over ranks; -> loss and metrics of each micro-batch (last stage)."""
    copies = parallel_state.get_context_parallel_world_size()  # each context rank takes the loss of the whole rows

    def loss(batch: MicroBatch, token_loss: Tensor) -> tuple[Tensor, int, dict[str, Tensor]]:
        out = loss_fn(batch, token_loss)
        return out.loss / copies, 0, {"train/loss": out.loss.detach()} | out.metrics

    return _run_schedule(model, micro_batches, lambda batch: partial(loss, batch), forward_only=False, mtp=mtp)


@contextmanager
def _into_buffer(linears: list[nn.Module]) -> Iterator[None]:
    """Inside, backward adds these weights' gradients to their buffers itself.

    Not outside: autograd then has no gradient of theirs to give, only Megatron's uninitialised stand-in.
    """
    for layer in linears:
        layer.gradient_accumulation_fusion = True
    try:
        yield
    finally:
        for layer in linears:
            layer.gradient_accumulation_fusion = False


def _run_schedule(
    model: nn.Module,
    micro_batches: list[MicroBatch],
    loss_of: Callable[[MicroBatch], Callable[[Tensor], Any]],
    forward_only: bool,
    mtp: bool,
) -> list[Any]:
    """Megatron's schedule, plain or pipelined; -> the third thing that loss_of gave, for each micro-batch.

    Context ranks compute their part of each row and put the tokens' losses together: loss_of sees whole rows.
    mtp: whether MTP is computed. What follows the forward passes sees the network as it is: with pipeline stages MTP's
    copy of the embedding needs its sum over stages in every step.
    """
    device, stages, context = parallel.device(), chunks(model), parallel_state.get_context_parallel_group()
    config, number = _bare(stages[0]).config, len(micro_batches)
    if len(stages) > 1:  # interleaved stages take the micro-batches in groups of as many as there are ranks
        micro_batches = micro_batches + [micro_batches[-1].blank()] * (-number % config.pipeline_model_parallel_size)

    def forward(batches: Iterator[MicroBatch], model: nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        batch = next(batches).to(device).widened(_row_multiple(config))
        inputs = {
            "input_ids": batch.tokens,
            "position_ids": torch.arange(batch.tokens.shape[1], device=device).expand_as(batch.tokens),
            "attention_mask": batch.attention_mask(),
            "labels": batch.labels,
            "loss_mask": None if forward_only else batch.mtp_weights(),
            "padding_mask": batch.padding,
        }
        inputs = own_part(inputs, context)
        inputs["padding_mask"] = _padding_here(model, inputs["padding_mask"])
        if batch.images is not None:
            inputs |= {"images": batch.images, "image_rows": batch.image_rows}
        with nullcontext() if mtp else without_mtp(_bare(model)):
            out = model(**inputs)
        loss = loss_of(batch)
        return out, lambda token_loss: loss(whole_row(token_loss.t(), context).t())

    MoEAuxLossAutoScaler.main_loss_backward_scale = None  # Megatron copies into the first one, of whatever shape
    rows, seq = micro_batches[0].tokens.shape  # with stages, shapes are sent along
    outputs = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[iter(micro_batches) for _ in stages],
        model=stages,
        num_microbatches=len(micro_batches),
        seq_length=seq,
        micro_batch_size=rows,
        forward_only=forward_only,
    )
    return outputs[:number]


def _row_multiple(config: Any) -> int:
    """Rows are as long as a multiple of this: two chunks for each context rank, and all tensor ranks share its part."""
    tensor, context = config.tensor_model_parallel_size, config.context_parallel_size
    return context * math.lcm(2, tensor) if context > 1 else tensor


def _padding_here(model: nn.Module, padding: Tensor | None) -> Tensor | None:
    """The padding as GPTModel takes it: it cuts out this tensor rank's part on the first stage only."""
    module = _bare(model)
    if padding is None or not module.config.sequence_parallel or module.pre_process:
        return padding
    parts = padding.chunk(module.config.tensor_model_parallel_size, dim=1)
    return parts[parallel_state.get_tensor_model_parallel_rank()].contiguous()


def finalize_gradients(
    model: list[nn.Module], num_tokens: Tensor | None = None, pg_collection: Any = None, force_all_reduce: bool = False
) -> None:
    """Sum gradients over data-parallel ranks and where weights are shared; Megatron's schedule calls it.

    num_tokens is not used: loss_weights sum to 1 already. Megatron would also move the expert bias here, before
    anyone knows whether the step is finite; train_step does that itself.
    """
    config = model[0].module.config
    if config.tensor_model_parallel_size == config.pipeline_model_parallel_size == 1:
        for chunk in model:  # no weight is shared by ranks: Megatron's walk over all modules would find nothing
            chunk.finish_grad_sync()
        return
    has_bias, config.moe_router_enable_expert_bias = config.moe_router_enable_expert_bias, False
    try:
        finalize_model_grads(model, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)
    finally:
        config.moe_router_enable_expert_bias = has_bias


def _count_tokens(micro_batches: list[MicroBatch]) -> tuple[int, int]:
    """Over all ranks: tokens, padding left out, and those that carry a weight. Context ranks have the same rows."""
    real = sum(batch.num_tokens() for batch in micro_batches)
    trained = sum(int(batch.loss_weights.count_nonzero()) for batch in micro_batches)
    group = parallel_state.get_data_parallel_group()
    if group.size() > 1:
        counts = torch.tensor([real, trained], dtype=torch.float64, device=parallel.device())
        dist.all_reduce(counts, group=group)
        real, trained = (int(n) for n in counts.tolist())
    return real, trained


def _sum_over_ranks(
    outputs: list[dict[str, Tensor]], grad_norm: float, routers: list[nn.Module]
) -> tuple[dict[str, float], float, Tensor]:
    """Loss and metrics summed over micro-batches and ranks, the gradient's norm, the routers' loads; one collective.

    loads: [router, expert] tokens of this pipeline stage's routers; their counters are reset.
    """
    group = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
    names = list(outputs[0]) if outputs else []
    sums = [torch.stack([out[name].detach().double() for out in outputs]).sum() for name in names]
    head = torch.stack([*sums, torch.tensor(grad_norm / group.size(), dtype=torch.float64, device=parallel.device())])
    counts = [router.local_tokens_per_expert for router in routers]
    flat = torch.cat([head, *(c.double() for c in counts)])
    for c in counts:
        c.zero_()
    if group.size() > 1:
        dist.all_reduce(flat, group=group)

    *values, grad_norm = flat[: len(names) + 1].tolist()
    # Tensor and context ranks all hold the same loss.
    copies = parallel_state.get_tensor_and_context_parallel_world_size()
    totals = _from_last_stage({name: value / copies for name, value in zip(names, values, strict=True)})
    loads = flat[len(names) + 1 :].view(len(routers), -1) if routers else flat.new_zeros(0, 1)
    return totals, grad_norm, loads


def _from_last_stage(value: Any) -> Any:
    """The last pipeline stage's object on every stage."""
    group = parallel_state.get_pipeline_model_parallel_group()
    if group.size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return box[0]


@torch.no_grad()
def _move_expert_bias(routers: list[nn.Module], loads: Tensor, speed: float) -> None:
    """V3 §2.1.2: down by speed for experts with more than the mean load, up for those with less."""
    if speed > 0:
        moves = speed * torch.sign(loads.mean(-1, keepdim=True) - loads)
        for router, move in zip(routers, moves, strict=True):
            router.expert_bias += move.to(router.expert_bias.dtype)


def _maxvio(loads: Tensor) -> dict[str, float]:
    """Largest load over mean load, minus 1; the mean of the layers that saw tokens (Wang et al. 2024, §4)."""
    used = loads[loads.sum(-1) > 0] if len(loads) else loads
    total = (used.amax(-1) / used.mean(-1) - 1).sum() if len(used) else loads.new_zeros(())
    both = torch.stack([total, total.new_tensor(len(used))])
    stages = parallel_state.get_pipeline_model_parallel_group()
    if stages.size() > 1:
        dist.all_reduce(both, group=stages)
    total, layers = both.tolist()
    return {"moe/maxvio": total / layers} if layers else {}


def _hold_still(optimizer: Any, params: list[nn.Parameter]) -> None:
    """No update for these: with a gradient of zero, momentum and decay would go on moving them."""
    for param in params:
        held = main_param(optimizer, param)
        if held is not None:
            held.grad = None


def _bare(model: nn.Module) -> nn.Module:
    """The network without its data-parallel wrapper."""
    return getattr(model, "module", model)
