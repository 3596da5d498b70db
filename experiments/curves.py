"""Reference curves: what runs of a config look like, and whether another run looks like them.

`r1 reference run=[a,b,c]` keeps, for ten chief metrics, the mean over runs at each step and the band in which one more
run is expected with 95 % (Student's t, the spread smoothed over neighbouring steps). `r1 compare run=x` widens the band
by a tolerance and says step by step whether the run is inside; a metric has left where several points in a row are out.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.quantities import series
from experiments.config import Config
from experiments.curves_config import MIN_RUNS
from experiments.kept_config import flat
from infra.errors import ConfigError
from infra.files import read_json, write_json
from infra.progress import say
from infra.tracking import PROJECT, git_state

FOLDER = PROJECT / "experiments" / "results" / "reference"
CHIEF = (
    "rl/reward/mean rl/reward/accuracy rl/reward/format rl/response_tokens rl/reflection_rate rl/truncated_frac "
    "rl/entropy rl/zero_variance_frac train/grad_norm {accuracy} train/loss eval/loss mtp/acceptance moe/maxvio "
    "train/lr eval/reward_model/pair_accuracy reward_model/margin rl/clip_frac rl/sampler_trainer_diff"
).split()
"The first ten that a run has; {accuracy}: pass@1 of the small evaluations."
NUMBER = 10
POOLED = 5
"Neighbouring steps over which the variance between runs is averaged."
FLOOR = 0.01
"The band's least half-width, of the metric's mean size: equal runs have no spread."
_SHARES = re.compile(r"_(frac|rate|accuracy)$|/(pass_at_1|accuracy|format|acceptance)$")
"Metrics that are shares: their band does not leave 0 to 1."
_SECTIONS = {
    "pretrain": ("model", "corpus", "pretrain"),
    "cold_start": ("sft", "cold_start"),
    "sft": ("sft",),
    "distill": ("sft",),
    "captions": ("sft", "captions"),
    "dpo": ("dpo",),
    "reward_model": ("reward_model",),
    "long2short": ("long2short", "rl", "sft", "dpo", "task", "reward", "sampling"),
}
"The sections that decide a stage's curves; those of the other stages, all RL: _RL."
_RL = ("rl", "task", "reward", "sampling")
_APART = ("checkpoint", "data", "pairs", "save_every", "sample_groups", "micro_batch_tokens", "rollout_rows")
"Settings that name a folder, or change no curve."


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """One metric of a run beside its band."""

    metric: str
    steps: list[int]
    inside: list[bool]
    at: int | None
    "The first of several steps in a row that are outside; None where it never left."
    value: float | None
    "The metric there, and the widened band's ends."
    low: float | None = None
    high: float | None = None


def reference(cfg: Config) -> None:
    """`r1 reference`: runs -> <name>.json."""
    folders = [Path(folder) for folder in cfg.reference.run]
    if len(folders) < MIN_RUNS:
        raise ConfigError("reference.run", cfg.reference.run, f"a band needs {MIN_RUNS} runs", "name more of them")
    made = band(folders, cfg.reference.name)
    folder = Path(cfg.reference.folder) if cfg.reference.folder else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made['config']}.json"
    write_json(path, made)
    say(f"{len(made['metrics'])} metrics of {len(folders)} runs: {path}")


def compare(cfg: Config) -> int:
    """`r1 compare`; -> 1 where a metric has left its band."""
    run, folder = Path(cfg.compare.run), Path(cfg.compare.folder) if cfg.compare.folder else FOLDER
    settings, stage = _settings(run)
    found, differing = _nearest(cfg.compare.to, folder, settings, stage)
    left = judge(series(run / "metrics.jsonl"), found, cfg.compare.tolerance, cfg.compare.patience)
    if not any(metric.steps for metric in left):
        problem = f"has no step in common with the reference {found['config']}"
        raise ConfigError("compare.run", run, problem, "give a run that went further, or to=... another reference")
    if cfg.compare.json:
        print(json.dumps(_report(left, found, differing), indent=1))
    else:
        print(_text(left, found, differing, cfg.compare.tolerance))
    return int(any(metric.at is not None for metric in left))


def band(folders: Sequence[Path], name: str = "") -> dict[str, Any]:
    """What a reference file holds. Raises ConfigError for runs of different settings, and for one seed twice."""
    told = [_settings(folder) for folder in folders]
    (settings, stage), seeds = told[0], [_run(folder)["seed"] for folder in folders]
    for folder, (others, _) in zip(folders, told, strict=True):
        for key in settings.keys() | others.keys():
            if settings.get(key) != others.get(key):
                problem = f"has {key}={others.get(key)}, and {folders[0]} {settings.get(key)}"
                raise ConfigError("reference.run", folder, problem, "name runs that differ in run.seed alone")
    if len(set(seeds)) < len(seeds):
        raise ConfigError("reference.run", [str(f) for f in folders], f"have the seeds {seeds}", "name other runs")
    curves = [series(folder / "metrics.jsonl") for folder in folders]
    metrics = {
        metric: _band([c[metric] for c in curves], share=bool(_SHARES.search(metric))) for metric in chief(curves)
    }
    commits = sorted({_run(folder)["commit"] for folder in folders})
    return {
        "config": name or stage,
        "stage": stage,
        "commit": commits[0] if len(commits) == 1 else commits,
        "written_at": git_state()["commit"],
        "seeds": seeds,
        "settings": settings,
        "metrics": metrics,
    }


def chief(curves: Sequence[Mapping[str, Mapping[int, float]]]) -> list[str]:
    """The ten chief metrics that every run has at two steps or more."""
    common = [name for name in curves[0] if all(len(c.get(name, ())) > 1 for c in curves)]
    accuracy = next((n for n in common if n.startswith("eval/") and n.endswith("/pass_at_1")), "")
    wanted = [accuracy if name == "{accuracy}" else name for name in CHIEF]
    return [name for name in wanted if name in common][:NUMBER]


def _band(curves: Sequence[Mapping[int, float]], *, share: bool) -> dict[str, list[float]]:
    """step, low, mean, high at the steps where every run has a number."""
    from scipy import stats

    steps = [step for step in curves[0] if all(math.isfinite(c.get(step, math.nan)) for c in curves)]
    values = np.array([[c[step] for step in steps] for c in curves])  # [run, step]
    runs = len(curves)
    middle, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    floor = FLOOR * np.abs(middle).mean()
    half = []
    for i in range(len(steps)):
        near = variance[max(0, i - POOLED // 2) : i + POOLED // 2 + 1]
        factor = stats.t.ppf(0.975, runs - 1) * math.sqrt(1 + 1 / runs)  # neighbours are not independent
        half.append(max(factor * math.sqrt(near.mean()), floor))
    low, high = middle - half, middle + half
    if share:
        low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
    ends = {"low": low, "mean": middle, "high": high}
    return {"step": steps} | {name: [float(f"{v:.6g}") for v in line] for name, line in ends.items()}


def judge(
    run: Mapping[str, Mapping[int, float]], found: Mapping[str, Any], tolerance: float, patience: int
) -> list[Left]:
    """Each metric of the reference beside the run's. What is no number is outside; a metric the run lacks has left.

    A run with fewer steps is compared as far as it goes.
    """
    out = []
    last = max((step for points in run.values() for step in points), default=0)
    for metric, line in found["metrics"].items():
        steps, inside, ends = [], [], []
        for step, low, middle, high in zip(line["step"], line["low"], line["mean"], line["high"], strict=True):
            if step > last or (metric in run and step not in run[metric]):
                continue
            value = run.get(metric, {}).get(step, math.nan)
            wide = middle - (middle - low) * (1 + tolerance), middle + (high - middle) * (1 + tolerance)
            steps.append(step)
            inside.append(wide[0] <= value <= wide[1])
            ends.append((value, *wide))
        at = _first_of(inside, patience)
        there = ends[at] if at is not None else (None, None, None)
        told = dict(zip(("value", "low", "high"), there, strict=True))
        out.append(Left(metric=metric, steps=steps, inside=inside, at=None if at is None else steps[at], **told))
    return out


def _first_of(inside: Sequence[bool], patience: int) -> int | None:
    """Where the first `patience` points in a row, or all where there are fewer, are outside."""
    patience = min(patience, len(inside))
    for i in range(len(inside) - patience + 1 if patience else 0):
        if not any(inside[i : i + patience]):
            return i
    return None


def _run(folder: Path) -> dict[str, Any]:
    run = read_json(folder / "run.json")
    if not run or not (folder / "metrics.jsonl").exists():
        raise ConfigError("compare.run", folder, "holds no run", "give a folder with run.json and metrics.jsonl")
    return run


def _settings(folder: Path) -> tuple[dict[str, Any], str]:
    """-> (the settings that decide a run's curves, its stage): those of its sections, flat, without folders."""
    run = _run(folder)
    stage = run["tags"]["stage"]
    values = flat({name: run["config"][name] for name in _SECTIONS.get(stage, _RL)})
    values |= {f"evaluate.{key}": run["config"]["evaluate"][key] for key in ("curve_questions", "curve_samples")}
    kept = {key: value for key, value in values.items() if key.rpartition(".")[2] not in _APART}
    return kept, stage


def _nearest(
    to: str, folder: Path, settings: Mapping[str, Any], stage: str
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """-> (the reference, settings in which the run differs from it: [run's, reference's])."""
    paths = sorted(folder.glob("*.json")) if to == "reference" else [folder / f"{to}.json", Path(to)]
    known = [read_json(path) for path in paths if path.is_file()]
    known = [one for one in known if to != "reference" or one["stage"] == stage]
    if not known:
        remedy = "make one: r1 reference run=[runs/a,runs/b,runs/c]"
        raise ConfigError("compare.to", to, f"there is no reference of {stage} in {folder}", remedy)

    def differing(one: Mapping[str, Any]) -> dict[str, list[Any]]:
        both = settings.keys() & one["settings"].keys()
        pairs = {key: [settings[key], one["settings"][key]] for key in sorted(both)}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    best = min(known, key=lambda one: len(differing(one)))
    return best, differing(best)


def _report(left: Sequence[Left], found: Mapping[str, Any], differing: Mapping[str, list[Any]]) -> dict[str, Any]:
    gone = [metric for metric in left if metric.at is not None]
    first = min(gone, key=lambda metric: metric.at) if gone else None
    metrics = {
        m.metric: {"inside": sum(m.inside), "of": len(m.inside), "left_at": m.at, "steps": m.steps, "is_in": m.inside}
        for m in left
    }
    return {
        "reference": found["config"],
        "differs": dict(differing),
        "left_first": first.metric if first else None,
        "at_step": first.at if first else None,
        "metrics": metrics,
    }


def _text(left: Sequence[Left], found: Mapping[str, Any], differing: Mapping[str, list[Any]], tolerance: float) -> str:
    """The table for people."""
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [f"reference {found['config']}: seeds {seeds}, band widened by {100 * tolerance:g} %"]
    lines += [f"  the run has {key}={run}, the reference {ref}" for key, (run, ref) in differing.items()]
    for m in left:
        marks = "".join("." if ok else "x" for ok in m.inside)
        said = f"left at step {m.at}: {m.value:.4g}, band {m.low:.4g} to {m.high:.4g}" if m.at is not None else "inside"
        lines.append(f"{m.metric:<28}{sum(m.inside):>4} of {len(m.inside):<4}{said}")
        lines.append(f"{'':<28}{marks}")
    report = _report(left, found, differing)
    first = report["left_first"]
    lines.append(f"left first: {first}, at step {report['at_step']}" if first else "inside the reference throughout")
    return "\n".join(lines)
