"""Pairs as rows: two rows a pair, which stay in one micro-batch; epochs in an order that a resume repeats."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import CheckpointError, ConfigError
from modeling.tokenizer import Tokenizer
from rl.reward_model_config import Reads
from rl.rewards.format import summary_of
from training.data.packing import balanced_micro_batches
from training.data.pairs import Pair
from training.step import MicroBatch


@dataclass(frozen=True, slots=True)
class PairRows:
    """A pair's token ids: prompt, what is read of the answer, the end token."""

    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """The longer one's."""
        return max(len(self.chosen), len(self.rejected))


def read_part(text: str, reads: Reads) -> str:
    """What of a response the reward model sees."""
    return summary_of(text) if reads is Reads.summary else text


def encode(tokenizer: Tokenizer, prompts: list[str], texts: list[str], limit: int) -> list[list[int]]:
    """Token ids of prompt + text + end for each; of what is longer than `limit` tokens the end is kept."""
    rows = tokenizer.encode_batch([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
    end = tokenizer.eos_id  # which a response that a model ended has already
    return [(ids if ids and ids[-1] == end else [*ids, end])[-limit:] for ids in rows]


def encode_pairs(tokenizer: Tokenizer, pairs: list[Pair], reads: Reads, limit: int) -> list[PairRows]:
    """Each pair's rows. Raises ConfigError where one is too long for the model, or both read the same."""
    prompts = [pair.prompt for pair in pairs]
    sides = [[read_part(getattr(pair, name), reads) for pair in pairs] for name in ("chosen", "rejected")]
    same = [i for i, (one, other) in enumerate(zip(*sides, strict=True)) if one == other]
    if same:
        first = f"the first is pair {same[0] + 1}: {sides[0][same[0]][:60]!r}"
        problem = f"{len(same)} of {len(pairs)} pairs differ in nothing that is read; {first}"
        remedy = "leave such pairs out, or set reward_model.reads=response"
        raise ConfigError("reward_model.reads", reads.name, problem, remedy)
    encoded = [encode(tokenizer, prompts, side, limit + 1) for side in sides]
    rows = [PairRows(*both) for both in zip(*encoded, strict=True)]
    long = [i for i, row in enumerate(rows) if row.length > limit]
    if long:
        problem = (
            f"{len(long)} have more than {limit} tokens (model.max_position_embeddings), the first is {long[0] + 1}"
        )
        raise ConfigError("reward_model.pairs", f"{len(rows)} pairs", problem, "leave long pairs out")
    return rows


def collate_rows(rows: list[list[int]], weights: list[float], pad_id: int) -> MicroBatch:
    """Rows padded on the right, each with its weight where it ends; labels are not read. No rows: two of padding."""
    shape = (len(rows) or 2, max([1, *map(len, rows)]))
    tokens = np.full(shape, pad_id, dtype=np.int64)
    marks, padding = np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=bool)
    for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        tokens[i, : len(row)], padding[i, : len(row)], marks[i, len(row) - 1] = row, False, weight
    ids = torch.from_numpy(tokens)
    return MicroBatch(tokens=ids, labels=ids, loss_weights=torch.from_numpy(marks), padding=torch.from_numpy(padding))


def pair_batches(pairs: list[PairRows], *, rank: int, world: int, max_tokens: int, pad_id: int) -> list[MicroBatch]:
    """This rank's share of the pairs as bradley_terry_loss takes them; weights sum to 1 over all ranks."""
    weight = 0.5 / len(pairs)
    shares = balanced_micro_batches([2 * pair.length for pair in pairs], world, max_tokens)
    return [
        collate_rows(
            [row for i in part for row in (pairs[i].chosen, pairs[i].rejected)], [weight] * (2 * len(part)), pad_id
        )
        for part in shares[rank]
    ]


def answer_scores(batch: MicroBatch, scores: Tensor) -> Tensor:
    """[batch]: the score where each answer ends; 0 for a row without one."""
    return (scores * (batch.loss_weights > 0)).sum(1)


class PairStream:
    """Pairs in random order, each once an epoch; where it stands is one number."""

    def __init__(self, pairs: list[PairRows], *, seed: int) -> None:
        self.pairs, self.seed, self.position = pairs, seed, 0
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(repr((pair.chosen, pair.rejected)).encode())
        self.hash = digest.hexdigest()

    def next(self, count: int) -> list[PairRows]:
        """The next pairs, fewer at the end of an epoch."""
        epoch, at = divmod(self.position, len(self.pairs))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        taken = [self.pairs[i] for i in order[at : at + count]]
        self.position += len(taken)
        return taken

    def steps(self, count: int) -> int:
        """Calls of next(count) in an epoch."""
        return -(-len(self.pairs) // count)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "hash": self.hash}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError where the pairs are others."""
        if state["hash"] != self.hash:
            raise CheckpointError("the run has read other pairs: give those, or another run.dir")
        self.position = int(state["position"])
