"""What logging costs a training step: metrics on every step, samples on every twentieth, MLflow's sender beside it.

An A/B test of steps with and without came out at 0.83 to 1.19 on a shared machine, far wider than the 3 % it should
tell. So the cost is added up instead: the time inside the tracker's calls, and the processor time of its writer thread
and of the sender, divided by the cores, as they could run beside training. The peer is the same steps without that.
"""

import os
import tempfile
import time
from pathlib import Path

import psutil

from experiments.bench.result import Result

ROUNDS, STEPS, ROWS, TOKENS = 8, 40, 32, 64
SAMPLES_EVERY = 20
"An R1-Zero step, which has samples, takes about as long as 20 of these."


class _Cost:
    """Processor seconds of the writer thread and of the sender, so far."""

    def __init__(self, before: set[int]) -> None:
        self._process, self._before = psutil.Process(), before

    def __call__(self) -> float:
        threads = [t for t in self._process.threads() if t.id not in self._before]
        total = sum(t.user_time + t.system_time for t in threads)
        for child in self._process.children():
            times = child.cpu_times()
            total += times.user + times.system
        return total


def run() -> Result:
    """One rank; the tracker is the product's own."""
    import torch

    from infra.tracking import Tracker
    from modeling.config import ModelConfig
    from training import parallel
    from training.config import OptimizerConfig, ParallelConfig
    from training.losses import next_token_loss
    from training.schedules import Now
    from training.state import build_state
    from training.step import MicroBatch, train_step

    layout = ParallelConfig()
    parallel.init(layout, 0)
    cfg = ModelConfig.preset("tiny")
    state = build_state(cfg, OptimizerConfig(), layout, stage="bench")
    ids = torch.randint(0, cfg.vocab_size, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    weights = torch.full((ROWS, TOKENS), 1 / (ROWS * TOKENS))
    batch = MicroBatch(tokens=ids[:, :-1], labels=ids[:, 1:], loss_weights=weights)
    row = {"question_id": "q", "text": "x" * 300, "tokens": ["x"] * 100, "sampler_logprobs": [0.0] * 100}

    cores = len(os.sched_getaffinity(0))

    def step() -> dict[str, float]:
        metrics = train_step(state, [batch], next_token_loss, Now(lr_scale=0.1))
        state.step += 1
        return metrics | {f"extra/metric_{i}": 1.0 for i in range(30)}

    for _ in range(5):
        step()  # torch starts its threads
    cost = _Cost({thread.id for thread in psutil.Process().threads()})
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        tracker = Tracker(Path(folder) / "run", uri=uri, experiment="bench", name="bench", config={}, seed=0, tags={})

        def block() -> tuple[float, float]:
            """Steps a second with the cost of logging, and without it."""
            start, busy, inside = time.perf_counter(), cost(), 0.0
            for _ in range(STEPS):
                metrics = step()
                called = time.perf_counter()
                tracker.log(metrics, step=state.step, tokens=state.tokens_seen)
                if state.step % SAMPLES_EVERY == 0:
                    tracker.samples(state.step, [row | {"step": state.step} for _ in range(64)])
                inside += time.perf_counter() - called
            alone = time.perf_counter() - start - inside
            return STEPS / (alone + inside + (cost() - busy) / cores), STEPS / alone

        block()  # the sender imports MLflow
        pairs = [block() for _ in range(ROUNDS)]
        tracker.finish()
    return Result.of("logging_overhead", "steps/s", *map(list, zip(*pairs, strict=True)), "the same without logging")
