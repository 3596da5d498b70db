"""What the pages Aha, Model and Lineage read of a run, written as training writes it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.dashboard.made import BEACON, HOSTILE

PLAIN = "<think>\n3+5=8\n</think><answer>(3+5)*8</answer>"
CHECKED = "<think>\ncheck (3+5)*8=64 yes\n</think><answer>(3+5)*8</answer>"
CHANGED = "<think>\ncheck 3*5+8=23 low wait: 8*8=64\n</think><answer>(3+5)*8</answer>"
MIXED = "<think>\nso we try 再想 this\n</think><answer>3+5+8</answer>"


def write_evaluation(path: Path, step: int, texts: dict[str, list[tuple[str, float]]]) -> Path:
    """question -> (text, accuracy) of its answers, with logprobs and entropies of two tokens each."""
    rows = []
    for question, answers in texts.items():
        for index, (text, right) in enumerate(answers):
            rows.append(
                {
                    "step": step,
                    "question_id": question,
                    "task": "countdown",
                    "prompt": "User: Make 64 from 3, 5, 8.\nAssistant:",
                    "answer_key": "(3+5)*8",
                    "group": index,
                    "text": text,
                    "reward": right + 0.1,
                    "reward_accuracy": right,
                    "reward_format": 1.0,
                    "advantage": right - 0.5,
                    "response_tokens": len(text),
                    "thinking_tokens": len(text) // 2,
                    "stopped": True,
                    "reflects": "check" in text or "再想" in text,
                    "version": step,
                    "tokens": ["<b>", "ab\n"],
                    "sampler_logprobs": [-0.01, -4.2],
                    "entropies": [0.02, 1.9],
                    "trainer_logprobs": [-0.01, -4.7] if index == 0 else None,
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def add_evaluations(folder: Path) -> None:
    """Step 0, where 1 of 8 checks itself, and step 40, where all do; one of them changes its mind and is right."""
    questions = ("countdown/test/0", "countdown/test/1")
    before = {q: [(PLAIN, 0.0)] * 4 for q in questions}
    before[questions[0]] = [(CHECKED, 1.0), *before[questions[0]][1:]]
    after = {q: [(CHECKED, 1.0)] * 4 for q in questions}
    after[questions[0]] = [(CHANGED, 1.0), (MIXED, 0.0), (HOSTILE, 0.0), (CHECKED, 1.0)]
    write_evaluation(folder / "evaluations" / "step_000000.parquet", 0, before)
    write_evaluation(folder / "evaluations" / "step_000040.parquet", 40, after)


def add_experts(folder: Path) -> None:
    """Two layers of four experts over three steps, and a line that a crash cut short."""
    lines = []
    for step in (1, 2, 3):
        load = [1.0 + 0.1 * step, 1.0, 1.0, 1.0 - 0.1 * step]
        bias = [0.5 - 0.001 * step, 0.5, 0.5, 0.5 + 0.001 * step]
        layers = [{"layer": n, "mtp": n == 4, "load": load, "bias": bias} for n in (2, 4)]
        lines.append(f"\n{json.dumps({'step': step, 'layers': layers})}\n")
    (folder / "experts.jsonl").write_text("".join(lines) + '{"step": 4, "lay')


def add_config(folder: Path) -> None:
    """A model in run.json, and a setting that a stranger wrote."""
    record = json.loads((folder / "run.json").read_text())
    model = {"hidden_size": 128, "family": "deepseek", "dtype": "bf16", "scoring_func": "sigmoid"}
    record["config"] = {"model": model, "run": {"name": f"<script>alert(1)</script>![x]({BEACON})"}}
    (folder / "run.json").write_text(json.dumps(record))


def add_lineage(folder: Path, stage: str = "zero") -> None:
    """A model from a base that is elsewhere."""
    common = {"seed": 0, "commit": "0123456789abcdef", "dirty": False, "data": {}, "settings": {}}
    base = common | {
        "stage": "pretrain",
        "path": "experiments/base",
        "id": "963e7cd5b1bd",
        "created": "",
        "parents": [],
    }
    own = common | {
        "stage": stage,
        "path": f'runs/x"];evil[label="{BEACON}',
        "id": f"id{stage}",
        "created": "2025-01-20T10:00:00",
        "parents": [base],
    }
    (folder / "lineage.json").write_text(json.dumps(own))
