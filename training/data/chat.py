"""Conversations for supervised fine-tuning: read from JSONL or Parquet, made into tokens and a loss mask.

A row is {prompt, response}, and may have id, question (the question alone, without the template around it) and more.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import R1Error
from infra.progress import say
from training.data import rows
from training.data.decontaminate import decontaminate
from training.data.rows import BadRow

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer

THINK = "<think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One exchange.

    Example: Conversation(prompt="User: 1+1?\\nAssistant:", response="<think>\\n</think>\\n<answer>2</answer>")
    """

    prompt: str
    "What the model reads, template included; nothing in it is learnt."
    response: str
    "What it shall write; its end token is added when it is encoded."
    question: str = ""
    "The question alone: a model with a chat template of its own gets this as its user's message."
    id: str = ""
    "Unique where it is given."


def read(path: Path, *, max_bad: float = 0.0) -> list[Conversation]:
    """The file's conversations; unusable rows, or an id twice, are left out and counted, the first of them named.

    Raises ConfigError where the file cannot be read, where more than max_bad of its rows are unusable, or all are.
    """
    found = rows.read(path, "sft.data")
    return rows.usable(path, found, _parse, key="sft.data", share_key="sft.max_bad", bad_share=max_bad)


def _parse(row: dict[str, Any]) -> tuple[str, Conversation]:
    """-> (the row's id, the conversation). Raises BadRow for a row without a prompt or a response."""
    for key in ("prompt", "response"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise BadRow(f"has no {key}")
    fields = {key: str(row[key]) for key in ("prompt", "response", "question", "id") if row.get(key)}
    return fields.get("id", ""), Conversation(**fields)


def write(path: Path, table: Sequence[dict[str, Any]]) -> Path:
    """Write the rows of a table as Parquet, whole or not at all; -> path."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table)), scratch, compression="zstd")
    scratch.rename(path)
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file: names a set in the lineage of what is trained on it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(conversation: Conversation, tokenizer: "Tokenizer") -> tuple[list[int], int]:
    """-> (token ids with the end token, how many of them are the prompt's).

    Prompt and response are encoded apart, as in a rollout, where the response begins at a token of its own. The loss
    mask follows: place j, whose label is token j + 1, is learnt from j = prompt - 1 on.
    """
    prompt = _prompt(conversation, tokenizer)
    # Some chat templates open the thinking themselves (R1's does).
    opened = prompt.rstrip().endswith(THINK)
    response = conversation.response.removeprefix(THINK) if opened else conversation.response
    ids = tokenizer.encode(prompt)
    return [*ids, *tokenizer.encode(response), tokenizer.eos_id], len(ids)


def _prompt(conversation: Conversation, tokenizer: "Tokenizer") -> str:
    """The prompt as this model reads it: its own tokenizer's corpus has no marks, others bring theirs."""
    if tokenizer.is_own:
        return conversation.prompt
    if tokenizer.has_chat:
        return tokenizer.chat(conversation.question or conversation.prompt)
    return tokenizer.start + conversation.prompt


def without_held_out(conversations: Sequence[Conversation], held_out: Iterable[str]) -> list[Conversation]:
    """Those whose prompt or question is none of the held-out texts; what falls out is counted aloud."""
    known = {_plain(text) for text in held_out}
    kept = [c for c in conversations if _plain(c.prompt) not in known and _plain(c.question) not in known]
    if len(kept) < len(conversations):
        _say(f"{len(conversations) - len(kept)} conversations are test questions and are left out")
    return kept


def decontaminated(conversations: Sequence[Conversation], questions: Sequence[str]) -> list[Conversation]:
    """Those that hold no test question (training/data/decontaminate.py), given without their templates."""
    cleaned = decontaminate([f"{c.prompt}\n{c.response}" for c in conversations], questions)
    if cleaned.dropped:
        _say(f"conversations: {cleaned}")
    return [conversations[i] for i in cleaned.kept]


def refuse_held_out(rows: Iterable[dict[str, Any]], held_out: Iterable[str]) -> None:
    """Raise R1Error where a set that a stage has made holds a test question."""
    known = {_plain(text) for text in held_out}
    found = next((row for row in rows if _plain(row["prompt"]) in known), None)
    if found is not None:
        raise R1Error(f"{found['id']}: a test question is in the training set; ask training questions only")


def _plain(text: str) -> str:
    """The text by which questions are compared: case and white space do not count."""
    return " ".join(text.lower().split())


def _say(message: str) -> None:
    """Every rank reads; one speaks."""
    if os.environ.get("RANK", "0") == "0":
        say(message)
