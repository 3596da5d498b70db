"""Run folders for the dashboard's tests, written as training writes them (infra/tracking.py, rl/metrics.py)."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BEACON = "http://beacon.example/seen.png"
HOSTILE = (
    f"<think>wait <script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    f" ![pixel]({BEACON}) [link](javascript:alert(1)) <style>body{{display:none}}</style></pre></div>"
    f"<img src='{BEACON}'> \x1b[31mred\x1b[0m \u202egnp.exe\u202c &lt;b&gt; $$x$$ :red[no] 等等 </think>"
    f"<answer>{'9' * 3000}</answer>"
)
"What a model could write to run code in the page, restyle it, call out, or lie about what it says."


def write_run(
    folder: Path,
    *,
    steps: int = 40,
    status: str = "FINISHED",
    samples: tuple[int, ...] = (10, 40),
    seed: int = 7,
    task: str = "countdown",
    config: dict | None = None,
) -> Path:
    """A small R1-Zero run: metrics of each step, held-out scores every tenth, two questions of four answers."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": f"id-of-{folder.name}",
        "name": f"name-{folder.name}",
        "experiment": "r1lab",
        "created": "2025-01-20T10:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "seed": seed,
        "tags": {"stage": "zero", "scale": "tiny", "task": task},
        "uri": None,
        "status": status,
        "config": config or {},
    }
    (folder / "run.json").write_text(json.dumps(record))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            file.write(metrics_line(step))
    for step in samples:
        write_samples(folder / "samples" / f"step_{step:06d}.parquet", step)
    return folder


def metrics_line(step: int) -> str:
    """One line of metrics.jsonl; right answers get longer with the steps, wrong ones are missing at step 3."""
    values = {
        "rl/reward/mean": 0.1 + step / 100,
        "rl/reward/accuracy": step / 100,
        "rl/reward/format": 0.9,
        "rl/response_tokens": 20.0 + step,
        "rl/thinking_tokens": 12.0 + step,
        "rl/response_tokens_correct": 18.0 + step,
        "rl/response_tokens_wrong": None if step == 3 else 30.0,
        "rl/reflection_rate": step / 200,
        "rl/entropy": 1.0 / step,
        "rl/policy_kl": 0.001 * step,
        "rl/kl": 0.002 * step,
        "rl/clip_frac": 0.01,
        "rl/truncated_frac": 0.05,
        "rl/zero_variance_frac": 0.3,
        "train/loss": -0.01 * step,
        "train/tokens_per_s": 9000.0 + step,
        "time/step_s": 2.0,
        "time/rollout_s": 1.2,
        "own/metric": 3.0 * step,
    }
    if step % 10 == 0:
        held_out = {
            "pass_at_1": 0.2 + step / 200,
            "pass_at_1_low": 0.15 + step / 200,
            "pass_at_1_high": 0.25 + step / 200,
        }
        held_out |= {"pass_at_8": 0.5 + step / 200, "majority_at_8": 0.3 + step / 200}
        values |= {f"eval/countdown/{name}": value for name, value in held_out.items()}
        values |= {"eval/response_tokens": 21.0 + step, "eval/thinking_tokens": 13.0 + step}
    return json.dumps({"step": step, "tokens": 1000 * step, "time": 1.7e9 + 2 * step, "metrics": values}) + "\n"


def write_samples(path: Path, step: int) -> Path:
    """Two groups of four: one right, one cut, one hostile and wrong, one with a long line; the second all wrong."""
    texts = [
        "<think>3+5=8. wait, check: 8*8=64</think><answer>(3+5)*8</answer>",
        "<think>3*5=15, 15*8",
        HOSTILE,
        "ab" * 500_000,
    ]
    rows = []
    for question, rewards in (("countdown/train/7", (1.1, 0.0, 0.1, 0.0)), ("countdown/train/8", (0.0,) * 4)):
        for index, (text, reward) in enumerate(zip(texts, rewards, strict=True)):
            rows.append(
                {
                    "step": step,
                    "question_id": question,
                    "task": "countdown",
                    "prompt": f"User: Make 64 from 3, 5, 8. ![p]({BEACON}) <b>bold</b>\nAssistant:",
                    "answer_key": "(3+5)*8",
                    "group": index,
                    "text": f"step {step}: {text}",
                    "reward": reward,
                    "reward_accuracy": float(reward > 1),
                    "reward_format": float(reward > 0),
                    "advantage": reward - 0.3,
                    "response_tokens": 10 * (index + 1),
                    "thinking_tokens": 8,
                    "stopped": index != 1,
                    "reflects": index in (0, 2),
                    "version": step,
                    "tokens": ["a", "b"],
                    "sampler_logprobs": [-0.5, -0.1],
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return path
