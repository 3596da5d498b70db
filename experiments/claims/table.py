"""The table of claims: raw results -> intervals and verdicts -> table.json, README. Nothing is typed by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.claims.arms import Run
from experiments.claims.claim import Claim, Rule, constant, terms
from experiments.claims.run import raw_path
from experiments.claims.stats import OPEN, REFUTED, REPRODUCED, Verdict, judge
from infra.files import read_json

START, END = "<!-- claims: r1 claims rebuild=true -->\n", "<!-- end of claims -->"


def entry(claim: Claim, runs: Mapping[str, Run], results: Path, scale: str, command: str) -> dict[str, Any]:
    """A claim in table.json."""
    raw = {name: _seeds(results, run) for name, run in runs.items()}
    drawn = [set(raw[name]) for name, run in runs.items() if not run.fixed]
    seeds = sorted(set.union(*drawn)) if drawn else [0]
    read = {name: (raw[name], run.fixed) for name, run in runs.items()}
    verdicts = [(rule, *_judged(claim, rule, read, seeds)) for rule in claim.rules]
    overall, reason = _together([(rule, verdict) for rule, verdict, _ in verdicts])
    first, numbers = verdicts[0][1:]
    costs = [values["seconds"] for found in raw.values() for values in found.values()]
    return {
        "id": claim.id,
        "title": claim.title,
        "source": claim.source,
        "paper": claim.paper,
        "quantity": claim.rules[0].name,
        "ours": {"mean": first.mean, "low": first.low, "high": first.high},
        "seeds": [int(seed) for seed, value in numbers.items() if value is not None],
        "verdict": overall,
        "reason": reason,
        "scale": scale,
        "command": command,
        "cost_s": round(sum(sum(parts.values()) for parts in costs)) if costs else None,
        "note": claim.note,
        "rules": [
            {"name": rule.name, "bound": rule.bound} | asdict(verdict) | {"values": values}
            for rule, verdict, values in verdicts
        ],
    }


def _seeds(results: Path, run: Run) -> dict[int, dict[str, Any]]:
    """seed -> raw result."""
    folder = raw_path(results, run, 0).parent
    return {int(path.stem): read_json(path) for path in sorted(folder.glob("*.json"))}


def _judged(
    claim: Claim, rule: Rule, raw: Mapping[str, tuple[dict[int, dict[str, Any]], bool]], seeds: Sequence[int]
) -> tuple[Verdict, dict[str, float | None]]:
    """-> (the verdict, seed -> number). A seed counts where each arm that the rule reads was run with it."""
    arms = {arm for arm, _ in rule.terms()}
    fixed = all(raw[arm][1] for arm in arms)
    asked = [0] if fixed else seeds
    values: dict[int, float | None] = {}
    for seed in asked:
        found = {arm: raw[arm][0].get(0 if raw[arm][1] else seed) for arm in arms}
        if all(found.values()):
            values[seed] = number(rule, {arm: one["values"] for arm, one in found.items()})
    verdict = judge(rule, values, fixed=fixed, test=claim.test, larger=claim.larger)
    return verdict, {str(seed): value for seed, value in values.items()}


def number(rule: Rule, values: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """The rule's number in one seed; None where a part of it is none. values: arm -> quantity -> value.

    A quantity that the arm does not have at all is None, too: an accuracy of no answers, a length of none.
    """

    def total(text: str) -> float | None:
        if constant(text) is not None:
            return constant(text)
        parts = [values[arm].get(quantity) for arm, quantity in terms(text)]
        return None if any(part is None for part in parts) else sum(parts)

    left = total(rule.of)
    other = rule.minus or rule.over or rule.percent_of
    right = total(other) if other else 0.0
    if left is None or right is None:
        return None
    if rule.minus or not other:
        return left - right
    if right == 0:
        return None
    return left / right if rule.over else 100 * (left / right - 1)


def _together(verdicts: Sequence[tuple[Rule, Verdict]]) -> tuple[str, str]:
    """The claim's verdict and why: it holds where every rule with a bound does, and fails where one does."""
    judged = [(rule, verdict) for rule, verdict in verdicts if rule.bound]
    for wanted in (REFUTED, OPEN):
        found = [f"{rule.name}: {verdict.reason}" for rule, verdict in judged if verdict.verdict == wanted]
        if found:
            same = {verdict.reason for _, verdict in judged}
            return wanted, (same.pop() if len(same) == 1 else "; ".join(found))
    return REPRODUCED, "; ".join(f"{rule.name}: {verdict.reason}" for rule, verdict in judged)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for README: a row a claim."""
    lines = ["| | claim | source | paper | ours (95 % over seeds) | verdict | cost | command |", "|---" * 8 + "|"]
    for row in rows:
        seeds = f"{len(row['seeds'])} seed{'' if len(row['seeds']) == 1 else 's'}" if row["seeds"] else "not run"
        ours = f"{row['quantity']}: {shown(row['ours'])}; {seeds}"
        cost = f"{row['cost_s'] / 60:.0f} min" if row["cost_s"] is not None else ""
        cells = [row["id"], row["title"], row["source"], row["paper"], ours, row["verdict"], cost]
        lines.append("| " + " | ".join([*(cell.replace("|", "\\|") for cell in cells), f"`{row['command']}`"]) + " |")
    return "\n".join(lines) + "\n"


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for the terminal: each claim, then its numbers."""
    lines = []
    for row in rows:
        lines.append(f"{row['id']:<4}{row['verdict']:<16}{row['title']} ({row['source']}; paper: {row['paper']})")
        for rule in row["rules"]:
            verdict = f", {rule['bound']}: {rule['verdict']}" if rule["bound"] else ""
            lines.append(f"      {rule['name']}: {shown(rule)}, seeds: {rule['seeds']}{verdict}")
        if row["verdict"] == OPEN:
            lines.append(f"      {row['reason']}")
    return "\n".join(lines)


def shown(value: Mapping[str, Any]) -> str:
    """mean [low, high]."""
    if value["mean"] is None:
        return "-"
    middle = f"{value['mean']:.3g}"
    return middle if value["low"] is None else f"{middle} [{value['low']:.3g}, {value['high']:.3g}]"


def written(readme: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """README's text with the table between its marks; as it is where it has none."""
    head, start, rest = readme.partition(START)
    _, end, tail = rest.partition(END)
    return f"{head}{start}{markdown(rows)}{end}{tail}" if start and end else readme
