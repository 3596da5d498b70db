"""`r1 datagen`: a description becomes instructions, better instructions, and samples of JSON for people to review.

Everything is kept after each reply, so that the same command goes on where it was. A reply that cannot be read or
breaks the schema is asked for again, with what is wrong with it, a bounded number of times, and counted.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents import sheet
from agents.budget import Budget, LimitReached
from agents.config import DatagenConfig
from agents.endpoint import Endpoint
from agents.hostile import as_data, clean
from agents.samples import Seen, read, schema
from infra.errors import R1Error
from infra.files import read_json, write_json
from infra.progress import Progress, say

DECIDING = ("task", "labels", "near", "query_characters")
"Settings of which a folder holds one value each."
COUNTS = ("replies", "invalid", "repaired", "given_up", "duplicates")


def run(cfg: DatagenConfig, folder: Path) -> int:
    """Make samples and folder/review.csv; -> 0, or 1 where fewer than cfg.n came of it.

    Raises R1Error where the endpoint fails or nothing at all came of it; what was made is kept.
    """
    if cfg.review:
        path, count = sheet.export(Path(cfg.review), cfg.export)
        say(f"datagen: {count} accepted samples: {path}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(cfg, folder / "datagen.json")
    endpoint, budget = Endpoint(cfg.endpoint), Budget(cfg.budget)
    stopped = ""
    try:
        _instruct(cfg, state, endpoint, budget)
        _sample(cfg, state, endpoint, budget)
    except LimitReached as limit:
        stopped = f"; {limit}, and start the same command again"
    made, counts = state.samples, state.counts
    counted = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in COUNTS)
    if not made:
        raise R1Error(
            f"datagen: no sample of {cfg.n} ({counted}){stopped or '; take another model, or a clearer task'}"
        )
    path = folder / sheet.NAME
    _keep_decisions(path, made)
    say(f"datagen: {len(made)} of {cfg.n} samples ({counted}){stopped}")
    say(f"datagen: review {path} there or in the dashboard, then r1 datagen review={path}")
    return int(len(made) < cfg.n)


class _State:
    """What is there so far, kept in one file."""

    def __init__(self, cfg: DatagenConfig, path: Path) -> None:
        self.path = path
        given = asdict(cfg)
        self.settings = {name: given[name] for name in DECIDING}
        try:
            kept = read_json(path)
        except ValueError:
            raise R1Error(f"{path}: is no JSON; delete it, or choose another run.dir") from None
        if kept and kept.get("settings") != self.settings:
            raise R1Error(f"{path}: was made for another task, labels or limits; choose another run.dir")
        self.instructions: str = kept.get("instructions", "")
        self.refined: str = kept.get("refined", "")
        self.samples: list[dict[str, str]] = kept.get("samples", [])
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0) | kept.get("counts", {})

    def keep(self) -> None:
        names = ("settings", "instructions", "refined", "samples", "counts")
        write_json(self.path, {name: getattr(self, name) for name in names})


def _instruct(cfg: DatagenConfig, state: _State, endpoint: Endpoint, budget: Budget) -> None:
    """Steps 1 to 3: the description becomes detailed instructions, and those better ones."""
    about = f"Task: {cfg.task}\nLabels: {', '.join(cfg.labels)}"
    if not state.instructions:
        wanted = (
            "Write detailed instructions for making test data for this task: what each label means, where one ends "
        )
        wanted += "and another begins, which hard cases, lengths and styles there should be. Reply with them alone."
        state.instructions = clean(endpoint.ask(f"{wanted}\n\n{about}", budget), 20_000)
        state.keep()
    if not state.refined:
        wanted = (
            "Make these instructions better: find what is unclear, missing or easy to get wrong, mend it, and reply "
        )
        wanted += "with the whole of the new instructions alone."
        drafted = as_data(state.instructions, "instructions", 20_000)
        better = clean(endpoint.ask(f"{wanted}\n\n{about}\n\n{drafted}", budget), 20_000)
        state.refined = better or state.instructions or cfg.task
        state.keep()


def _sample(cfg: DatagenConfig, state: _State, endpoint: Endpoint, budget: Budget) -> None:
    """Step 4: samples, a few a call, of the labels that are most wanting."""
    form, seen = schema(cfg.labels, cfg.query_characters), Seen(cfg.near)
    for sample in state.samples:
        seen.add(sample["query"])
    rounds = cfg.rounds or 3 * -(-cfg.n // cfg.per_call)
    with Progress("datagen", cfg.n - len(state.samples), "sample") as progress:
        while len(state.samples) < cfg.n and rounds > 0:
            rounds -= 1
            found = _ask(cfg, _prompt(cfg, state, form), form, state, endpoint, budget)
            fresh = [sample for sample in found if seen.add(sample["query"])]
            state.counts["duplicates"] += len(found) - len(fresh)
            fresh = fresh[: cfg.n - len(state.samples)]
            state.samples += fresh
            state.keep()
            progress.advance(len(fresh))


def _prompt(cfg: DatagenConfig, state: _State, form: dict[str, Any]) -> str:
    """What is asked for, and what is there already."""
    number = min(cfg.per_call, cfg.n - len(state.samples))
    there = [sample["label"] for sample in state.samples]
    wanting = sorted(cfg.labels, key=there.count)
    labels = ", ".join(wanting[i % len(wanting)] for i in range(number))
    lately = as_data("\n".join(sample["query"][:200] for sample in state.samples[-20:]), "samples so far")
    return (
        f"Make {number} samples for this task, with these labels in this order: {labels}.\n\nTask: {cfg.task}\n\n"
        f"{as_data(state.refined, 'instructions', 20_000)}\n\nThey have to differ from these:\n{lately}\n\n"
        f"Reply with a JSON list alone, each item of this schema:\n{json.dumps(form, ensure_ascii=False)}"
    )


def _ask(
    cfg: DatagenConfig, prompt: str, form: dict[str, Any], state: _State, endpoint: Endpoint, budget: Budget
) -> list[dict[str, str]]:
    """Samples of one call and of its repairs. Those that fit are kept whatever the others are like."""
    samples: list[dict[str, str]] = []
    messages = [{"role": "user", "content": prompt}]
    for attempt in range(cfg.repairs + 1):
        reply = endpoint.chat(messages, budget)
        found, problems = read(reply, form)
        state.counts["replies"] += 1
        samples += found
        if not problems:
            state.counts["repaired"] += attempt > 0
            return samples
        state.counts["invalid"] += 1
        told = as_data("\n".join(problems[:10]), "what is wrong")
        again = f"That was no JSON list of the schema. Reply with the list alone, every item mended.\n{told}"
        messages = [messages[0], {"role": "assistant", "content": clean(reply)}, {"role": "user", "content": again}]
    state.counts["given_up"] += 1
    return samples


def _keep_decisions(path: Path, made: list[dict[str, str]]) -> None:
    """Write the sheet; decisions that stand in the one that is there are kept."""
    said = {sample.id: sample.decision for sample in sheet.written(path)} if path.exists() else {}
    ids = [f"s{number:04d}" for number in range(1, len(made) + 1)]
    sheet.write(
        path,
        [
            sheet.Sample(i, sample["query"], sample["label"], said.get(i, ""))
            for i, sample in zip(ids, made, strict=True)
        ],
    )
