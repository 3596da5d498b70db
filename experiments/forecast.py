"""What an RL run will be like, from its first steps; what is wrong with that; and afterwards, how it came out.

`r1 doctor zero ...` takes two steps of the run that is asked for and throws them away; `r1 zero` reads its own first
two where no doctor was asked. Both leave forecast.json in the run's folder; its end adds forecast_check.json.
"""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.config import Config
from infra.files import read_json, write_json
from infra.progress import say
from infra.tracking import Tracker
from rl.config import OldLogprobs

STEPS = 2
"Of which the second is timed: the first loads and compiles."
GIB = 2**30
FILE, CHECK = "forecast.json", "forecast_check.json"
Record = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is expected of a run. Shares and lengths are those of its first answers: what RL changes, it cannot know."""

    truncated_frac: float
    "Of the answers, cut by sampling.max_response_tokens."
    zero_variance_frac: float
    "Of the groups: all answers scored the same."
    accuracy: float
    response_tokens: float
    answers: int
    "A step: questions x group."
    answers_per_rank: float
    waves: int
    "Rounds in which a rank writes its answers, rl.rollout_rows at a time."
    rows_per_update: float
    "Answers that one optimiser step learns from, groups without variance left out."
    micro_batches: int
    "Forward and backward passes of a rank in one optimiser step, at the present length."
    memory_gib: float
    "The most that a rank may hold, once answers fill rl.micro_batch_tokens."
    memory_available_gib: float
    "For each rank."
    step_s: float
    step_s_longest: float
    "Were all answers as long as they may be."
    total_s: float
    "The stage with its evaluations and checkpoints, at the present length."
    total_s_longest: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    refuse: bool
    "Whether the run would be for nothing; else it is a warning."
    text: str


def forecast(records: list[Record], cfg: Config, ranks: int) -> Forecast:
    """From the metrics of the first steps, and of an evaluation and a checkpoint where there were any.

    records: what the loop gave the tracker, in order; those with time/step_s are steps.
    """
    rl, limit = cfg.rl, cfg.sampling.max_response_tokens
    steps = [r for r in records if "time/step_s" in r]
    last = steps[-1]

    def seen(name: str) -> float:
        return sum(r[name] for r in steps) / len(steps)

    def once(name: str) -> float:
        return next((r[name] for r in reversed(records) if name in r), 0.0)

    answers, tokens = rl.questions_per_step * rl.group_size, seen("rl/response_tokens")
    zero = seen("rl/zero_variance_frac")
    rows = answers * (1 - zero if rl.drops_zero_variance else 1.0) / rl.minibatches
    now = rows * tokens / ranks
    longest = rows * limit / ranks
    peak, activations = once("memory/peak_gib"), once("memory/activations_gib")
    growth = min(rl.micro_batch_tokens, longest) / max(1.0, min(rl.micro_batch_tokens, now))
    slower = limit / max(1.0, tokens)
    beside = once("time/evaluate_s") * (rl.steps // rl.evaluate_every + 1)
    beside += once("time/save_s") * -(-rl.steps // rl.save_every)
    return Forecast(
        truncated_frac=seen("rl/truncated_frac"),
        zero_variance_frac=zero,
        accuracy=seen("rl/reward/accuracy"),
        response_tokens=tokens,
        answers=answers,
        answers_per_rank=answers / ranks,
        waves=-(-answers // (ranks * rl.rollout_rows)),
        rows_per_update=rows,
        micro_batches=max(1, math.ceil(now / rl.micro_batch_tokens)),
        memory_gib=peak + activations * max(0.0, growth - 1),
        memory_available_gib=available_gib(),
        step_s=last["time/step_s"],
        step_s_longest=last["time/step_s"] * slower,
        total_s=last["time/step_s"] * rl.steps + beside,
        total_s_longest=last["time/step_s"] * slower * rl.steps + beside,
    )


def available_gib() -> float:
    """Memory for each rank of this machine: its GPU's, or its share of what is free, its own included."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    own = psutil.Process().memory_info().rss
    return psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", "1")) / GIB + own / GIB


def findings(f: Forecast, cfg: Config, ranks: int) -> list[Finding]:
    """What is wrong, the worst first, each with its remedy."""
    rl, limit = cfg.rl, cfg.sampling.max_response_tokens
    found = []

    def judge(value: float, refuse: float, warn: float, problem: str, remedy: str) -> None:
        if value > warn:
            found.append(Finding(value > refuse, f"{problem}; {remedy}"))

    room = cfg.model.max_position_embeddings
    longer = f"set sampling.max_response_tokens={2 * limit}"
    longer += f" model.max_position_embeddings={room + limit}" if 2 * limit > room else ""
    cut = f"{f.truncated_frac:.0%} of the answers are cut off at sampling.max_response_tokens={limit}"
    judge(f.truncated_frac, 0.5, 0.1, cut, f"{longer}, or begin from a model that ends its answers")
    same = f"{f.zero_variance_frac:.0%} of the groups score the same in all answers and teach nothing"
    easier = "harder questions" if f.accuracy > 0.5 else "an easier task or a stronger base"
    judge(f.zero_variance_frac, 0.99, 0.75, same, f"take {easier}, or set rl.group_size={2 * rl.group_size}")
    full = f"a rank may hold {f.memory_gib:.1f} GiB of {f.memory_available_gib:.1f}"
    halves = f"rl.micro_batch_tokens={rl.micro_batch_tokens // 2} rl.rollout_rows={max(1, rl.rollout_rows // 2)}"
    judge(f.memory_gib / f.memory_available_gib, 1.0, 0.8, full, f"set {halves}")
    if f.rows_per_update < ranks:
        few = f"an optimiser step has {f.rows_per_update:.1f} answers for {ranks} ranks"
        found.append(Finding(False, f"{few}; set rl.minibatches=1, or ask more (rl.questions_per_step)"))
    if f.answers % ranks:
        uneven = f"{f.answers} answers do not divide by {ranks} ranks, so some wait"
        found.append(Finding(False, f"{uneven}; set rl.questions_per_step to a multiple of {ranks}"))
    if limit > rl.micro_batch_tokens:
        row = f"one answer of {limit} tokens is more than rl.micro_batch_tokens={rl.micro_batch_tokens}"
        found.append(Finding(False, f"{row}; set rl.micro_batch_tokens={limit}"))
    if rl.rollout.older_weights and rl.old_logprobs is OldLogprobs.trainer and not rl.importance_cap:
        stale = "answers of older weights are taken for the policy's own, which has ended learning (LOG.md, laboratory)"
        remedy = "rl.old_logprobs=sampler" if rl.objective.name.weighs_answers else "rl.importance_cap=2"
        found.append(Finding(False, f"{stale}; set {remedy}"))
    return sorted(found, key=lambda finding: not finding.refuse)


def table(f: Forecast, cfg: Config, ranks: int) -> str:
    """The forecast in words, a line a quantity."""
    rl = cfg.rl
    batch = f"{rl.questions_per_step} questions x {rl.group_size} answers = {f.answers}, {f.answers_per_rank:g} a rank"
    update = f"{rl.minibatches} of {f.rows_per_update:.0f} answers each; micro-batches of a rank: {f.micro_batches}"
    rows = [
        ("answers a step", f"{batch} in {f.waves} wave{'s' if f.waves > 1 else ''} ({ranks} ranks)"),
        ("updates a step", update),
        ("right answers", f"{f.accuracy:.0%}"),
        ("cut off", f"{f.truncated_frac:.0%} of the answers, {f.response_tokens:.0f} tokens in the mean"),
        ("no variance", f"{f.zero_variance_frac:.0%} of the groups"),
        ("memory", f"{f.memory_gib:.2f} GiB a rank, of {f.memory_available_gib:.1f}"),
        ("a step", f"{f.step_s:.1f} s now, {f.step_s_longest:.1f} s were all answers as long as they may be"),
        ("the stage", f"{_minutes(f.total_s)} to {_minutes(f.total_s_longest)} for {rl.steps} steps"),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class FirstSteps:
    """A tracker that passes everything on, and makes the forecast of a run that has none from its first steps."""

    def __init__(self, tracker: Tracker, cfg: Config, folder: Path, ranks: int) -> None:
        self.tracker, self.cfg, self.folder, self.ranks = tracker, cfg, folder, ranks
        self.records: list[Record] = []
        self._open = not (folder / FILE).exists()

    def log(self, metrics: Record, *, step: int, tokens: int) -> None:
        self.tracker.log(metrics, step=step, tokens=tokens)
        if not self._open:
            return
        self.records.append(dict(metrics))
        begun_here = any("memory/peak_gib" in r for r in self.records)  # measured in the first step after a start
        self._open = step < STEPS
        if step == STEPS and begun_here and "time/step_s" in metrics and os.environ.get("RANK", "0") == "0":
            found = forecast(self.records, self.cfg, self.ranks)
            write_json(self.folder / FILE, asdict(found))
            for finding in findings(found, self.cfg, self.ranks):
                say(f"warning: {finding.text}")

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.tracker.samples(step, rows)

    def finish(self, status: str = "FINISHED") -> None:
        self.tracker.finish(status)


def compare(folder: Path, peak_gib: float) -> dict[str, dict[str, float]]:
    """What was expected of the run in the folder and what came, kept in forecast_check.json; empty without a forecast.

    peak_gib: the most that this rank's process has held.
    """
    from experiments.figures import read_metrics

    expected = read_json(folder / FILE)
    if not expected:
        return {}
    series = read_metrics(folder)

    def mean(name: str) -> float:
        values = [value for _, value in series[name]]
        return sum(values) / len(values)

    def total(name: str) -> float:
        return sum(value for _, value in series.get(name, []))

    came = {
        "truncated_frac": mean("rl/truncated_frac"),
        "zero_variance_frac": mean("rl/zero_variance_frac"),
        "accuracy": mean("rl/reward/accuracy"),
        "response_tokens": mean("rl/response_tokens"),
        "memory_gib": peak_gib,
        "step_s": mean("time/step_s"),
        "total_s": total("time/step_s") + total("time/evaluate_s") + total("time/save_s"),
    }
    found = {name: {"expected": expected[name], "came": value} for name, value in came.items()}
    for name in ("step_s", "total_s"):
        found[name]["expected_longest"] = expected[f"{name}_longest"]
    write_json(folder / CHECK, found)
    return found


def compare_table(found: dict[str, dict[str, float]]) -> str:
    """What was expected, and what came (means over the run)."""
    lines = [f"{'forecast':<22}{'expected':>16}{'came':>10}"]
    for name, pair in found.items():
        longest = f" to {pair['expected_longest']:.3g}" if "expected_longest" in pair else ""
        lines.append(f"{name:<22}{f'{pair["expected"]:.3g}{longest}':>16}{pair['came']:>10.3g}")
    return "\n".join(lines)
