"""What logging costs a training step: steps with tracking on (metrics, MLflow's sender, samples) against steps without.

The figures are steps a second in blocks that alternate; the sender is idle in those without. A ratio of 0.97 would be
the limit of 3 %.
"""

import json
import tempfile
import time
from pathlib import Path

from experiments.bench.result import Result

ROUNDS, STEPS, ROWS, TOKENS = 8, 20, 32, 64


def _wait_for_sender(run_dir: Path, timeout_s: float = 60.0) -> None:
    """Until MLflow has every line of metrics.jsonl, and the samples' folder stands still."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        lines = (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
        sent = json.loads(path.read_text())["line"] if (path := run_dir / "mlflow.json").exists() else 0
        files = len(list((run_dir / "samples").glob("*.parquet")))
        if sent >= lines and files >= lines:
            return
        time.sleep(0.2)


def run() -> Result:
    """One rank, one model, one step function; only the tracker differs."""
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

    with tempfile.TemporaryDirectory() as folder:
        common = dict(experiment="bench", name="bench", config={}, seed=0, tags={})
        uri = f"sqlite:///{folder}/mlflow.db"
        on = Tracker(Path(folder) / "on", uri=uri, **common)
        off = Tracker(Path(folder) / "off", uri=None, enabled=False, **common)

        def block(tracker: Tracker) -> float:
            start = time.perf_counter()
            for _ in range(STEPS):
                metrics = train_step(state, [batch], next_token_loss, Now(lr_scale=0.1))
                state.step += 1
                metrics |= {f"extra/metric_{i}": 1.0 for i in range(30)}
                tracker.log(metrics, step=state.step, tokens=state.tokens_seen)
                tracker.samples(state.step, [row | {"step": state.step} for _ in range(64)])
            return STEPS / (time.perf_counter() - start)

        def without() -> float:
            _wait_for_sender(Path(folder) / "on")  # what the blocks with logging left to do is not this block's
            return block(off)

        block(on), without()  # warm-up: the sender imports MLflow
        pairs = [(block(on), without()) for _ in range(ROUNDS)]
        on.finish()
    return Result.of("logging_overhead", "steps/s", *map(list, zip(*pairs, strict=True)), "the same without logging")
