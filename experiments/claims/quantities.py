"""Numbers by name from what a run has left: metrics.jsonl, evaluation.json, answers.parquet, plan.json, decode.json.

eval/pass_at_1            a figure of the evaluation after the run; .../correct, /wrong, /truncated of lengths
eval/budget_64/pass_at_1  the same with the thinking cut there
eval/response_tokens/wrong_ended   length of the wrong answers that the limit did not cut
eval/right_with_check     accuracy of the answers that check themselves; eval/check_effect: with minus without, mean
                          over the questions that have both
rl/entropy@first          a metric's mean over the first tenth of its points; @last, over the last; @mean, over all;
                          @drops, of eval/: the sum of its falls from point to point
model/params, model/kv_elements_per_token, train_s, evaluate_s
"""

import json
import math
from pathlib import Path
from typing import Any

from experiments.kept_config import flat
from infra.files import read_json

METRICS = ("rl/", "eval/", "moe/", "mtp/", "memory/", "train/loss", "train/grad_norm", "time/step_s", "time/rollout_s")
"Metrics that are kept, by how their names begin."
_NO_FIGURES = ("intervals", "tasks", "budgets", "questions", "samples")


def read(folder: Path) -> dict[str, float | None]:
    """Every quantity of a run's folder; None where it is no number."""
    found: dict[str, float | None] = {}
    if (folder / "metrics.jsonl").exists():
        found |= curves(series(folder / "metrics.jsonl"))
    evaluation = folder / "evaluation"
    if (evaluation / "evaluation.json").exists():
        found |= evaluated(read_json(evaluation / "evaluation.json")) | answers(evaluation / "answers.parquet")
    for name in ("plan", "decode"):
        values = flat(read_json(folder / f"{name}.json"))
        found |= {f"{name}/{key}": number for key, value in values.items() if (number := _number(value)) is not None}
    return found | _model(folder)


def series(path: Path) -> dict[str, dict[int, float]]:
    """metrics.jsonl -> name -> step -> value; of a step done twice, the later. What was not finite is not a number."""
    found: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line that a crash cut short; the step was done again
            continue
        for name, value in record["metrics"].items():
            found.setdefault(name, {})[record["step"]] = math.nan if value is None else value
    return {name: dict(sorted(points.items())) for name, points in found.items()}


def curves(found: dict[str, dict[int, float]]) -> dict[str, float | None]:
    """Where each metric began, ended and was in the mean; how far it fell on the way."""
    values: dict[str, float | None] = {}
    for name, points in found.items():
        if not name.startswith(METRICS):
            continue
        y = list(points.values())
        if name.endswith(("_low", "_high")):
            continue
        if len(y) == 1:  # memory, which is measured once
            values[f"{name}@mean"] = _number(y[0])
            continue
        tenth = max(1, round(len(y) / 10))
        falls = sum(max(0.0, a - b) for a, b in zip(y, y[1:], strict=False))
        parts = {"first": _mean(y[:tenth]), "last": _mean(y[-tenth:]), "mean": _mean(y)}
        parts |= {"drops": falls} if name.startswith("eval/") else {}
        values |= {f"{name}@{part}": _number(value) for part, value in parts.items()}
    return values


def evaluated(scores: dict[str, Any]) -> dict[str, float | None]:
    """evaluation.json by name."""
    found = _figures(scores, "eval")
    for point in scores.get("budgets", ()):
        found |= _figures(point, f"eval/budget_{point['budget']}")
    return found


def _figures(scores: dict[str, Any], prefix: str) -> dict[str, float | None]:
    found = {}
    for key, value in scores.items():
        if key not in _NO_FIGURES:
            found[f"{prefix}/{key}"] = _number(value["mean"] if isinstance(value, dict) else value)
    for kind in ("correct", "wrong", "truncated"):
        lengths = scores["intervals"]["response_tokens"][kind]
        found[f"{prefix}/response_tokens/{kind}"] = _number(lengths["mean"]) if lengths else None
    return found


def answers(path: Path) -> dict[str, float | None]:
    """What only the answers themselves tell: whether those that check themselves are right more often, and lengths."""
    import pandas as pd

    rows = pd.read_parquet(path, columns=["question_id", "reflects", "reward_accuracy", "response_tokens", "stopped"])
    right = rows["reward_accuracy"] == 1.0
    checks = rows["reflects"].astype(bool)
    by_question = rows.assign(right=right).groupby(["question_id", "reflects"])["right"].mean().unstack()
    both = by_question.dropna() if by_question.shape[1] == 2 else by_question.iloc[:0]
    effect = (both[True] - both[False]).mean() if len(both) else math.nan
    return {
        "eval/right_with_check": _number(right[checks].mean()),
        "eval/right_without_check": _number(right[~checks].mean()),
        "eval/check_effect": _number(effect),
        "eval/questions_with_both": float(len(both)),
        "eval/response_tokens/wrong_ended": _number(rows["response_tokens"][~right & rows["stopped"]].mean()),
    }


def _model(folder: Path) -> dict[str, float | None]:
    """Size of the network in the folder's model, as its config.json tells it."""
    config = read_json(folder / "model" / "config.json")
    if not config:
        return {}
    from modeling.config import ModelConfig

    shape = ModelConfig.from_hf_dict(config)
    cache = shape.kv_elements_per_token()
    return {"model/params": float(shape.num_params()), "model/kv_elements_per_token": float(cache)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _number(value: Any) -> float | None:
    """A finite number to six digits, or None: raw results are small, and JSON has no NaN."""
    if isinstance(value, bool) or value is None or isinstance(value, str | list):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else None
