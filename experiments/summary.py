"""The end of a journey: the table, three answers to one question, and summary.json."""

import json
import os
from pathlib import Path

from rl.evaluate import Evaluation


def as_summary(evaluation: Evaluation) -> dict:
    """The figures of one model, as summary.json holds them."""
    interval = evaluation.pass_at_1
    return {
        "pass_at_1": {"mean": interval.mean, "low": interval.low, "high": interval.high},
        f"majority_at_{evaluation.samples}": evaluation.majority_at_k,
        **{f"pass_at_{k}": value for k, value in evaluation.pass_at_k.items() if k > 1},
        "response_tokens": evaluation.response_tokens,
        "thinking_tokens": evaluation.thinking_tokens,
        "reflection_rate": evaluation.reflection_rate,
        "format_rate": evaluation.format_rate,
        "truncated": evaluation.truncated,
        "questions": evaluation.questions,
        "samples": evaluation.samples,
    }


def evaluation_table(scores: dict) -> str:
    """One model's figures, a line each."""
    lines = []
    for name, value in scores.items():
        shown = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**value) if isinstance(value, dict) else f"{value:.3f}"
        lines.append(f"{name:<18}{value if isinstance(value, int) else shown}")
    return "\n".join(lines)


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
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


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
