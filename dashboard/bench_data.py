"""The benchmark's runs, in the trackers' own formats, written straight from numpy: 2 GB in a minute or two."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 8
"Answers to a question."


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is to read."""

    runs: int
    steps: int
    "Of each run."
    metrics: int
    "Of each step."
    samples: int
    "Of all runs together."
    files: int = 10
    "Steps of a run with samples."


SIZES = {
    "full": Size(runs=100, steps=10_000, metrics=50, samples=100_000),
    "small": Size(runs=12, steps=200, metrics=50, samples=960, files=2),
}
EVALUATED = ("eval/countdown/pass_at_1", "eval/countdown/pass_at_1_low", "eval/countdown/pass_at_1_high")
KNOWN = (
    "rl/reward/mean rl/reward/accuracy rl/reward/format rl/response_tokens rl/thinking_tokens rl/truncated_frac "
    "rl/zero_variance_frac rl/response_tokens_correct rl/response_tokens_wrong rl/reflection_rate rl/entropy rl/kl "
    "rl/policy_kl rl/clip_frac rl/ratio rl/sampler_trainer_diff rl/staleness train/loss train/grad_norm train/lr "
    "train/tokens_per_s time/step_s time/rollout_s time/reward_s time/logprobs_s time/update_s time/sync_s moe/maxvio "
    "mtp/rollout_acceptance memory/policy_gib memory/optimizer_gib memory/gradients_gib"
).split()


def make(store: Path, size: Size) -> None:
    """Write the runs, but for those that are there already; the last one is a live one, begun anew each time."""
    lines = _lines(size)
    texts = _texts()
    for number in range(size.runs - 1):
        folder = store / f"sweep_{number:02d}" / "zero"
        if not (folder / "run.json").exists():
            _write(folder, number, lines, size, texts)
    live = store / "live" / "zero"
    _write_samples(live, 0, Size(runs=1, steps=50, metrics=size.metrics, samples=GROUP, files=1), texts)
    now = time.time()
    (live / "metrics.jsonl").write_text("".join(_live_line(step, {}, now - 50 + step) for step in range(1, 51)))
    _write_record(live, 0, "RUNNING", size)


def add_line(run: Path, values: dict[str, float]) -> None:
    """One more step of the live run, as the tracker appends it."""
    with (run / "metrics.jsonl").open("r+") as file:
        step = sum(1 for _ in file) + 1
        file.write(_live_line(step, values, time.time()))


def _live_line(step: int, values: dict[str, float], moment: float) -> str:
    some = dict.fromkeys(KNOWN, 0.5) | {"rl/response_tokens": 100.0 + step} | values
    return json.dumps({"step": step, "tokens": 4096 * step, "time": moment, "metrics": some}) + "\n"


def _lines(size: Size) -> list[str]:
    """A run's metrics.jsonl by step, with room for two digits that make each run's own: one text, a hundred runs."""
    rng = np.random.default_rng(0)
    names = [*KNOWN, *(f"own/metric_{i:02d}" for i in range(size.metrics - len(KNOWN) - len(EVALUATED)))]
    trend = np.linspace(0.1, 1.0, size.steps)[:, None] * rng.uniform(0.5, 2.0, len(names))
    values = np.abs(trend + 0.05 * rng.standard_normal((size.steps, len(names))))
    body = ", ".join(f'"{name}": %.12g@' for name in names)  # @: two digits behind the twelve
    evaluated = ", ".join(f'"{name}": %.12g' for name in EVALUATED)
    lines = []
    for step, row in enumerate(values.tolist(), start=1):
        metrics = body % tuple(row)
        if step % 100 == 0:
            share = 0.8 * step / size.steps
            metrics += ", " + evaluated % (share, share - 0.03, share + 0.03)
        head = f'{{"step": {step}, "tokens": {4096 * step}, "time": {1.7e9 + 2 * step:.3f}'
        lines.append(f'{head}, "metrics": {{{metrics}}}}}\n')
    return lines


def _write(folder: Path, number: int, lines: list[str], size: Size, texts: pa.Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(lines).replace("@", f"{number:02d}"))
    _write_samples(folder, number, size, texts)
    _write_record(folder, number, "FINISHED", size)


def _write_record(folder: Path, number: int, status: str, size: Size) -> None:
    config = {"scale": "tiny", "run": {"seed": number % 2, "dir": str(folder)}, "rl": {"steps": size.steps}}
    config["rl"] |= {"lr": 1e-5 * (1 + number // 2), **{f"setting_{i}": i for i in range(150)}}
    config["sampling"] = {"max_response_tokens": 256}
    record = {
        "run_id": f"{number:032x}",
        "name": f"runs/{folder.parent.name}/zero",
        "experiment": "r1lab",
        "created": f"2025-01-{1 + number % 28:02d}T10:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "seed": number % 2,
        "tags": {"stage": "zero", "scale": "tiny", "task": ("countdown", "gcd")[number // 2 % 2]},
        "uri": None,
        "status": status,
        "config": config,
    }
    (folder / "run.json").write_text(json.dumps(record))


def _texts() -> pa.Array:
    """Answers of the usual length to choose from."""
    rng = np.random.default_rng(1)
    words = np.array("wait let me check 3 * 5 = 15 so the sum of these two is not 64 but we can try again".split())
    tries = (" ".join(rng.choice(words, n)) for n in rng.integers(20, 220, 400))
    return pa.array([f"<think>{text}</think><answer>(3+5)*8</answer>" for text in tries])


def _write_samples(folder: Path, number: int, size: Size, texts: pa.Array) -> None:
    rng = np.random.default_rng(number)
    answers = max(GROUP, size.samples // size.runs // size.files // GROUP * GROUP)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    questions = [f"countdown/train/{i // GROUP}" for i in range(answers)]
    for step in np.linspace(1, size.steps, size.files).round().astype(int).tolist():
        right = (rng.random(answers) < 0.1 + 0.7 * step / size.steps).astype(float)
        length = np.clip(rng.normal(80 + 100 * step / size.steps, 40, answers), 10, 256).astype(int)
        tokens = pa.array([["wait", " let"] * (n // 2) for n in length.tolist()])
        columns = {
            "step": pa.array([step] * answers),
            "question_id": pa.array(questions),
            "task": pa.array(["countdown"] * answers),
            "prompt": pa.array(["User: Make 64 from 3, 5, 8.\nAssistant:"] * answers),
            "answer_key": pa.array(["(3+5)*8"] * answers),
            "group": pa.array([i % GROUP for i in range(answers)]),
            "text": texts.take(pa.array(rng.integers(0, len(texts), answers))),
            "reward": pa.array(right * 1.0 + 0.1),
            "reward_accuracy": pa.array(right),
            "reward_format": pa.array(np.ones(answers)),
            "advantage": pa.array(right - right.mean()),
            "response_tokens": pa.array(length),
            "thinking_tokens": pa.array(np.maximum(length - 12, 0)),
            "stopped": pa.array(length < 256),
            "reflects": pa.array(rng.random(answers) < 0.3),
            "version": pa.array([step] * answers),
            "tokens": tokens,
            "sampler_logprobs": pa.array([[-0.5] * (n // 2 * 2) for n in length.tolist()]),
        }
        pq.write_table(pa.table(columns), folder / "samples" / f"step_{step:06d}.parquet", compression="zstd")
