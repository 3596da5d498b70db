"""The end of a journey: the table, three answers to one question, and summary.json."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from rl.evaluate import Evaluation


def as_summary(evaluation: Evaluation) -> dict:
    """The figures of one model, as summary.json holds them; `intervals` has what belongs to each."""
    language = evaluation.language_consistency
    return {
        "pass_at_1": asdict(evaluation.pass_at_1),
        f"majority_at_{evaluation.samples}": evaluation.majority_at_k.mean,
        **{f"pass_at_{k}": value.mean for k, value in evaluation.pass_at_k.items() if k > 1},
        "response_tokens": evaluation.response_tokens.all.mean,
        "thinking_tokens": evaluation.thinking_tokens.all.mean,
        "reflection_rate": evaluation.reflection_rate.mean,
        "format_rate": evaluation.format_rate.mean,
        "language_consistency": language.mean if language else None,
        "truncated": evaluation.truncated.mean,
        "questions": evaluation.questions,
        "samples": evaluation.samples,
    }


def intervals(evaluation: Evaluation) -> dict:
    """Every figure with its 95 % interval; lengths of all, correct, wrong and truncated answers, null where none is."""
    single = ("pass_at_1", "majority_at_k", "format_rate", "language_consistency", "truncated", "reflection_rate")
    found = {name: asdict(value) if (value := getattr(evaluation, name)) else None for name in single}
    found[f"majority_at_{evaluation.samples}"] = found.pop("majority_at_k")
    found |= {f"pass_at_{k}": asdict(value) for k, value in evaluation.pass_at_k.items() if k > 1}
    return found | {name: asdict(getattr(evaluation, name)) for name in ("response_tokens", "thinking_tokens")}


def evaluation_table(scores: dict) -> str:
    """One model's figures, a line each."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, dict):
            shown = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**value)
        else:
            shown = "no words" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
        lines.append(f"{name:<22}{shown}")
    return "\n".join(lines)


def tasks_table(tasks: dict[str, dict], samples: int) -> str:
    """A line a task; what as_summary says of each."""
    rows = [("task", "questions", "pass@1", f"pass@{samples}", f"majority@{samples}")]
    rows[0] += ("format", "language", "tokens", "thinking", "self-checks")
    for name, s in tasks.items():
        language = "-" if s["language_consistency"] is None else f"{s['language_consistency']:.3f}"
        chance = s["pass_at_1"]["mean"] if samples == 1 else s[f"pass_at_{samples}"]
        shares = f"{chance:.3f}", f"{s[f'majority_at_{samples}']:.3f}", f"{s['format_rate']:.3f}", language
        lengths = f"{s['response_tokens']:.1f}", f"{s['thinking_tokens']:.1f}", f"{s['reflection_rate']:.3f}"
        one = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**s["pass_at_1"])
        rows.append((name, str(s["questions"]), one, *shares, *lengths))
    return _columns(rows)


def budgets_table(points: list[dict]) -> str:
    """A line a thinking budget."""
    rows = [("thinking budget", "tokens", "thinking", "pass@1")]
    for p in points:
        one = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**p["pass_at_1"])
        rows.append((str(p["budget"]), f"{p['response_tokens']:.1f}", f"{p['thinking_tokens']:.1f}", one))
    return _columns(rows)


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def write_json(path: Path, value: dict) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def table(base: dict, zero: dict) -> str:
    """Base against R1-Zero, one line a figure."""
    k = base["samples"]

    def interval(s: dict) -> str:
        p = s["pass_at_1"]
        return f"{p['mean']:.3f} [{p['low']:.3f}, {p['high']:.3f}]"

    rows = [
        ("", "base", "R1-Zero"),
        ("pass@1 [95 % interval]", interval(base), interval(zero)),
        (f"majority@{k}", *(f"{s[f'majority_at_{k}']:.3f}" for s in (base, zero))),
        ("mean response tokens", *(f"{s['response_tokens']:.1f}" for s in (base, zero))),
        ("answers with a self-check", *(f"{s['reflection_rate']:.3f}" for s in (base, zero))),
        ("right format", *(f"{s['format_rate']:.3f}" for s in (base, zero))),
        ("cut off at the limit", *(f"{s['truncated']:.3f}" for s in (base, zero))),
        ("held-out questions", *(f"{s['questions']} x {s['samples']}" for s in (base, zero))),
    ]
    return _columns(rows)


def three_answers(sets: list[tuple[str, list[dict]]]) -> str:
    """One question answered at three points of the run.

    sets: (name, rows) with rows as rl.metrics.sample_rows makes them, the last one the end of the run. The question is
    the first that the end answers right in its first try (the first of all if it answers none); shown is the first try
    of each, good or bad.
    """
    end = [row for row in sets[-1][1] if row["group"] == 0]
    shown = next((row for row in end if row["reward_accuracy"] == 1.0), end[0])["question_id"]
    parts = []
    for name, rows in sets:
        row = next(r for r in rows if r["question_id"] == shown and r["group"] == 0)
        if not parts:
            parts.append(printable(row["prompt"]))
        verdict = "right" if row["reward_accuracy"] == 1.0 else "wrong"
        parts.append(f"--- {name} ({verdict}, {row['response_tokens']} tokens)\n{printable(row['text'])}")
    return "\n".join(parts)


def printable(text: str, limit: int = 2000) -> str:
    """A model's text for a terminal: control characters (colour codes, cursor moves, bells) are shown, not obeyed."""
    return "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text[:limit])
