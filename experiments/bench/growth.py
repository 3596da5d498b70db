"""How a step's time grows: with its tokens, with experts at equal active parameters, with the group, with the response.

Each benchmark times a step at sizes that double, in turn, round after round, and fits time ~ size^exponent. `ours` is
how many times longer the largest size takes than the smallest, `peer` what the arithmetic alone would take: as many
times as it is larger, and for experts no longer at all. Below a ratio of 1 a step has costs that do not grow with it.
Charts: runs/bench/<name>.png.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.result import Result

ROUNDS = 3
ROW = 64
"Tokens of a training row."
TOKENS = (512, 1024, 2048, 4096, 8192)
EXPERTS, EXPERT_TOKENS = (8, 16, 32, 64, 128, 256), 2048
QUESTIONS, GROUPS = 4, (2, 4, 8, 16, 32)
RESPONSES, ANSWERS = (32, 64, 128, 256), 8
CHARTS = Path("runs/bench")
Step = Callable[[], Any]


def tokens() -> Result:
    """A training step against its tokens."""
    return _grow("growth_tokens", "tokens of a training step", TOKENS, [_train_step(8, size) for size in TOKENS])


def experts() -> Result:
    """A training step against the routed experts, of which each token visits two."""
    steps = [_train_step(size, EXPERT_TOKENS) for size in EXPERTS]
    return _grow("growth_experts", "routed experts, two of them active", EXPERTS, steps, expected=1.0)


def group() -> Result:
    """A GRPO step against its group size."""
    steps = [_rl_step(QUESTIONS, size, 64) for size in GROUPS]
    return _grow("growth_group", f"answers of 64 tokens to each of {QUESTIONS} questions", GROUPS, steps)


def response() -> Result:
    """A GRPO step against the length of the answers."""
    steps = [_rl_step(QUESTIONS, ANSWERS, size) for size in RESPONSES]
    return _grow("growth_response", f"tokens of each of {QUESTIONS * ANSWERS} answers", RESPONSES, steps)


def _grow(name: str, what: str, sizes: tuple[int, ...], steps: list[Step], expected: float | None = None) -> Result:
    """Time the steps in turn; the first time of each is a warm-up."""
    for step in steps:
        step()
    rounds = []
    for _ in range(ROUNDS):
        seconds = []
        for step in steps:
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    middle = [median(column) for column in zip(*rounds, strict=True)]
    larger = sizes[-1] / sizes[0] if expected is None else expected
    draw(name, what, sizes, middle, CHARTS / f"{name}.png")
    return Result.of(
        name,
        "times the smallest step",
        [seconds[-1] / seconds[0] for seconds in rounds],
        [larger] * ROUNDS,
        "the arithmetic alone",
        sizes=list(sizes),
        seconds=middle,
        exponent=exponent(sizes, middle),
        exponent_upper_half=exponent(sizes[len(sizes) // 2 :], middle[len(sizes) // 2 :]),
        exponent_by_round=[exponent(sizes, seconds) for seconds in rounds],
    )


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """b of seconds = a * size^b, by least squares of the logarithms. Example: (1, 2, 4), [3, 6, 12] give 1."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw(name: str, what: str, sizes: tuple[int, ...], seconds: list[float], path: Path) -> None:
    """The times and the fitted line, both axes logarithmic."""
    import numpy as np

    from experiments.figures import BLUE, ORANGE, plt

    slope, offset = np.polyfit(np.log(sizes), np.log(seconds), 1)
    fig, ax = plt.subplots(figsize=(5.2, 4))
    ax.plot(sizes, seconds, "o-", color=BLUE, label="measured, median")
    ax.plot(sizes, np.exp(offset) * np.array(sizes) ** slope, "--", color=ORANGE, label=f"time ~ size^{slope:.2f}")
    ax.set(title=name, xlabel=what, ylabel="seconds a step")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    plt.close(fig)


def _train_step(num_experts: int, num_tokens: int) -> Step:
    """Forward, backward and AdamW on rows of random tokens, at tiny."""
    import torch

    from modeling.config import ModelConfig
    from training import parallel
    from training.config import OptimizerConfig, ParallelConfig
    from training.losses import next_token_loss
    from training.schedules import Now
    from training.state import build_state
    from training.step import MicroBatch, train_step

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = ParallelConfig()
    parallel.init(layout, 0)
    cfg = dataclasses.replace(ModelConfig.preset("tiny"), n_routed_experts=num_experts)
    state = build_state(cfg, OptimizerConfig(), layout, stage="bench")
    ids = torch.randint(0, cfg.vocab_size, (num_tokens // ROW, ROW + 1), generator=torch.Generator().manual_seed(0))
    weights = torch.full((len(ids), ROW), 1 / num_tokens)
    batch = MicroBatch(tokens=ids[:, :-1], labels=ids[:, 1:], loss_weights=weights)
    now = Now(lr_scale=0.1, mtp_lambda=0.0, bias_speed=1e-3)
    return lambda: train_step(state, [batch], next_token_loss, now)


def _rl_step(questions_per_step: int, group_size: int, length: int) -> Step:
    """A whole GRPO step on the released base; every answer is exactly `length` tokens long."""
    import torch

    from experiments.bench.grpo_step import our_step

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return our_step(questions_per_step, group_size, length)
