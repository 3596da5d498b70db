"""Pre-training steps of the network in every precision: loss, gradient, tokens a second, MFU, memory."""

from typing import Any

import torch

from experiments.gpu_check.clock import forget, peak_gib, seconds
from experiments.gpu_check.settings import SIZES, Precision, Settings, Size, precisions
from infra.progress import say
from training import parallel
from training.config import OptimizerConfig, ParallelConfig
from training.losses import next_token_loss
from training.schedules import Now
from training.state import build_state
from training.step import MicroBatch, train_step

MTP_LAMBDA = 0.3
LIMIT = 0.05
"Largest relative difference of a loss in FP8 to the same step in BF16."


def run(settings: Settings) -> dict[str, Any]:
    """The same weights and rows in every precision; "problem" where FP8's losses are far from BF16's."""
    size, found = SIZES[settings.size], {}
    for precision in precisions(settings):
        say(f"pretrain: {precision.name} ...")
        forget()
        found[precision.name] = _measure(precision, size, settings.peak)
    for precision in precisions(settings):
        if precision.against:
            own, base = found[precision.name], found[precision.against]
            pairs = list(zip(own["losses"], base["losses"], strict=False))
            own["loss_difference"] = [a / b - 1 for a, b in pairs]
            own["gradient_norm_difference"] = own["grad_norm"] / base["grad_norm"] - 1
            if precision.timed:
                own["speed_ratio"] = own["tokens_per_s"] / base["tokens_per_s"]
            if max(map(abs, own["loss_difference"])) > LIMIT:
                found["problem"] = f"{precision.name}: losses {own['losses']}, in {precision.against} {base['losses']}"
    return found


def _measure(precision: Precision, size: Size, peak: float | None) -> dict[str, Any]:
    layout = ParallelConfig()
    parallel.init(layout, 0)
    state = build_state(precision.model, OptimizerConfig(lr=3e-4), layout, stage="gpu_check")
    batches = _batches(size)
    now = Now(lr_scale=1.0, mtp_lambda=MTP_LAMBDA, bias_speed=1e-3)
    steps: list[dict[str, float]] = []

    def step() -> None:
        steps.append(train_step(state, batches, next_token_loss, now))

    batch = batches[0].to(parallel.device())
    positions = torch.arange(size.row_tokens, device=parallel.device()).expand_as(batch.tokens)

    def forward_backward() -> None:
        state.model.zero_grad_buffer()
        mask = batch.mtp_weights()
        state.module(batch.tokens, positions, None, labels=batch.labels, loss_mask=mask).mean().backward()

    repeat = size.steps if precision.timed else 0
    if repeat:
        took = seconds(step, repeat=repeat, warmup=size.warmup)
    else:
        took = None
        for _ in range(size.warmup):
            step()
    found: dict[str, Any] = {
        "losses": [each["train/loss"] for each in steps],
        "grad_norm": steps[0]["train/grad_norm"],
        "parameters": sum(p.numel() for p in state.module.parameters()),
        "peak_memory_gib": peak_gib(),
    }
    if took is not None:
        tokens = size.micro_batches * size.rows * size.row_tokens
        speed = tokens / took
        flops = precision.model.flops_per_token(size.row_tokens, mtp=True) * speed
        # Megatron's own reduction is left out of this pass, the gradients stay in the buffers.
        alone = seconds(forward_backward, repeat=repeat, warmup=1)
        found |= {
            "step_ms": 1e3 * took,
            "forward_backward_ms_per_micro_batch": 1e3 * alone,
            "tokens_per_s": speed,
            "tflops": flops / 1e12,
            "mfu_bf16_peak": flops / peak if peak else None,
        }
    return found


def _batches(size: Size) -> list[MicroBatch]:
    """The step's rows, random and the same in every step, so that the loss falls by learning them by heart."""
    count = size.micro_batches * size.rows
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, size.model.vocab_size, (count, size.row_tokens + 1), generator=generator)
    weights = torch.full((count, size.row_tokens), 1 / (count * size.row_tokens))
    cut = zip(*(part.split(size.rows) for part in (ids[:, :-1], ids[:, 1:], weights)), strict=True)
    return [MicroBatch(tokens=t, labels=y, loss_weights=w) for t, y, w in cut]
