"""Preference pairs: read from a file, judged row by row, split by prompt, turned into micro-batches of pairs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import ConfigError, R1Error
from infra.progress import say
from modeling.tokenizer import Tokenizer
from rl.batch import Row, collate
from training.data.packing import balanced_micro_batches
from training.micro_batch import MicroBatch

_FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt. Example: Pair("Make 8 from 3, 5.", "<answer>3+5</answer>", "<answer>3*5</answer>")."""

    prompt: str
    chosen: str
    rejected: str


def read_pairs(path: Path, bad_share: float = 0.0) -> list[Pair]:
    """The usable rows of a JSONL or Parquet file, in its order; how many are not is said.

    Raises ConfigError for a file that is not there or of another kind, R1Error where no row is usable or more than
    bad_share of them are not: it names file, line and what is wrong with the first.
    """
    pairs, bad = [], []
    for place, row in _rows(Path(path)):
        problem = row if isinstance(row, str) else _problem(row)
        if problem:
            bad.append(f"{place}: {problem}")
        else:
            pairs.append(Pair(*(row[key] for key in _FIELDS)))
    if not pairs:
        first = f" ({bad[0]})" if bad else ""
        raise R1Error(f"{path}: holds no preference pair{first}; give rows of prompt, chosen and rejected")
    if bad and len(bad) > bad_share * (len(bad) + len(pairs)):
        share = f"{len(bad)} of {len(bad) + len(pairs)} rows cannot be used, the first {bad[0]}"
        raise R1Error(f"{path}: {share}; mend them, or set dpo.bad_share to what may be left out")
    if bad:
        say(f"{path}: {len(bad)} of {len(bad) + len(pairs)} rows are left out, the first {bad[0]}")
    return pairs


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, row), or in the place of a row what is wrong with it."""
    if not path.is_file():
        raise ConfigError("dpo.data", path, "is not there", "give a JSONL or Parquet file of prompt, chosen, rejected")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in (".jsonl", ".json"):
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _json_row(line)
    else:
        raise ConfigError("dpo.data", path, "is neither .jsonl nor .parquet", "give one of them")


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    return row if isinstance(row, dict) else "no JSON object"


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise R1Error(f"{path}: no Parquet file ({str(error).splitlines()[0]}); write it again") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _problem(row: dict[str, Any]) -> str:
    """What is wrong with the row; empty where nothing is."""
    for key in _FIELDS:
        text = row.get(key)
        if not isinstance(text, str) or not text or any("\ud800" <= c <= "\udfff" for c in text):
            return f"no text under {key}"
    return "chosen and rejected are the same" if row["chosen"] == row["rejected"] else ""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A pair as it is trained on; both rows are prompt and response."""

    chosen: Row
    rejected: Row

    @property
    def padded(self) -> int:
        """Tokens of both rows side by side."""
        return 2 * max(len(self.chosen.tokens), len(self.rejected.tokens))


def tokenize(pairs: list[Pair], tokenizer: Tokenizer, max_tokens: int) -> list[TokenPair]:
    """Rows of tokens; a response that no stop token ends gets the end-of-text token. Too long ones are left out, and
    said. Raises R1Error where none is left."""

    def row(prompt: str, response: str) -> Row:
        first, tokens = tokenizer.encode(prompt), tokenizer.encode(response)
        tokens = tokens if tokens[-1] in tokenizer.stop_ids else [*tokens, tokenizer.eos_id]
        return Row(first + tokens, len(first), [0.0] * len(tokens), 0.0)

    made = [TokenPair(row(p.prompt, p.chosen), row(p.prompt, p.rejected)) for p in pairs]
    kept = [pair for pair in made if pair.padded <= 2 * max_tokens]
    if not kept:
        raise R1Error(f"all {len(pairs)} preference pairs are longer than the model's context of {max_tokens} tokens")
    if len(kept) < len(made):
        say(f"{len(made) - len(kept)} of {len(made)} preference pairs are longer than {max_tokens} tokens: left out")
    return kept


def split(pairs: list[Pair], held_out: float) -> tuple[list[Pair], list[Pair]]:
    """-> (for training, held out): a prompt's pairs go together, by its hash. Raises R1Error where none is to train."""

    def share(pair: Pair) -> float:
        digest = hashlib.blake2b(pair.prompt.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    train, unseen = ([p for p in pairs if (share(p) < held_out) is out] for out in (False, True))
    if not train:
        raise R1Error(f"dpo.held_out={held_out}: none of {len(pairs)} preference pairs is left to train on; set 0")
    return train, unseen


class PairOrder:
    """Indices of pairs, each once an epoch, in an order of the seed's; its position is all that a resume needs."""

    def __init__(self, number: int, seed: int) -> None:
        self.number, self.seed, self.position = number, seed, 0

    def next(self, count: int) -> list[int]:
        """The next `count` indices, over the end of an epoch into the next."""
        places = range(self.position, self.position + count)
        self.position += count
        epochs = {place // self.number: None for place in places}
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(self.number) for epoch in epochs}
        return [int(orders[place // self.number][place % self.number]) for place in places]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def pair_batches(pairs: list[TokenPair], *, rank: int, world: int, max_tokens: int, pad_id: int) -> list[MicroBatch]:
    """This rank's micro-batches of a step: rows chosen, rejected, chosen, rejected, ...; each pair weighs the same.

    loss_weights sum to 1 over all tokens of all ranks, a pair's to 1 / len(pairs), each answer's half of it. Every rank
    gets the same number of micro-batches.
    """
    shares = balanced_micro_batches([pair.padded for pair in pairs], world, max_tokens)
    out = []
    for indices in shares[rank]:
        rows = [row for i in indices for row in (pairs[i].chosen, pairs[i].rejected)]
        out.append(collate(rows, [0.5 / (len(pairs) * row.response_length) for row in rows], pad_id))
    return out
