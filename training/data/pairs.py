"""Preference pairs: a prompt, the better answer and the worse one. Read from JSONL or Parquet; without torch.

`r1 reward_model` and `r1 dpo` read them, `r1 rlaif` writes them. Column names are TRL's, texts are plain.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from training.data import rows
from training.data.rows import BadRow

_FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Pair:
    """Example: Pair("User: Translate to Chinese: seven\\nAssistant:", "<answer>七</answer>", "<answer>八</answer>")."""

    prompt: str
    "What the model reads, template included."
    chosen: str
    "The better response, all of it; its thinking may be in it."
    rejected: str
    "The worse one."


def read_pairs(path: Path, key: str = "pairs", *, max_bad: float = 0.0) -> list[Pair]:
    """The pairs of a JSONL or Parquet file; of further columns only an id is read, which no two rows may share.

    Rows that are no JSON object, lack a text, or whose two answers are the same are left out and counted, the first of
    them named. Raises ConfigError under the setting `key` for a file that is not there or has no pairs, and where more
    than max_bad of its rows (the setting max_bad of the same section) are unusable.
    """
    share = f"{key.rpartition('.')[0]}.max_bad".lstrip(".")
    return rows.usable(path, rows.read(path, key), _parse, key=key, share_key=share, bad_share=max_bad)


def write_pairs(path: Path, pairs: Iterable[Pair], extras: Iterable[dict[str, Any]] | None = None) -> Path:
    """JSONL, whole or not at all. extras: further columns of each pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    table = [asdict(pair) for pair in pairs]
    for row, more in zip(table, extras or ({} for _ in table), strict=True):
        row |= more
    scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
    os.replace(scratch, path)
    return path


def split_pairs(pairs: list[Pair], held_out: float, key: str = "pairs") -> tuple[list[Pair], list[Pair]]:
    """-> (pairs to train on, held-out pairs). The prompt's hash decides: no prompt is in both.

    Raises ConfigError where one of them is empty.
    """
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[_fraction(pair.prompt) < held_out].append(pair)
    for part, what in zip(parts, ("to train on", "held out"), strict=True):
        if not part:
            problem = f"of {len(pairs)} pairs none is {what}, as prompts are split by hash"
            raise ConfigError(key, held_out, problem, "give more prompts")
    return parts


def _fraction(text: str) -> float:
    """0 to 1, the same for the same text everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def _parse(row: dict[str, Any]) -> tuple[str, Pair]:
    """-> (the row's id, the pair). Raises BadRow for what is wrong with it."""
    for name in _FIELDS:
        if not isinstance(row.get(name), str):
            raise BadRow(f"has no text under {name}")
        if not row[name].strip():
            raise BadRow(f"has an empty {name}")
    if row["chosen"] == row["rejected"]:
        raise BadRow("has the same answer twice")
    return str(row.get("id") or ""), Pair(*(row[name] for name in _FIELDS))
