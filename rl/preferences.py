"""Preference pairs as DPO trains on them: rows of tokens, their order, and micro-batches of pairs."""

import hashlib
from dataclasses import dataclass

import numpy as np

from infra.errors import CheckpointError, R1Error
from infra.progress import say
from modeling.tokenizer import Tokenizer
from rl.batch import Row, collate
from training import parallel
from training.data.packing import balanced_micro_batches
from training.data.pairs import Pair
from training.micro_batch import MicroBatch


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
        first, tokens = (tokenizer.encode(text.encode(errors="replace").decode()) for text in (prompt, response))
        tokens = tokens if tokens[-1] in tokenizer.stop_ids else [*tokens, tokenizer.eos_id]
        return Row(first + tokens, len(first), [0.0] * len(tokens), 0.0)

    made = [TokenPair(row(p.prompt, p.chosen), row(p.prompt, p.rejected)) for p in pairs]
    kept = [pair for pair in made if pair.padded <= 2 * max_tokens]
    if not kept:
        raise R1Error(f"all {len(pairs)} preference pairs are longer than the model's context of {max_tokens} tokens")
    if len(kept) < len(made) and parallel.is_main():
        say(f"{len(made) - len(kept)} of {len(made)} preference pairs are longer than {max_tokens} tokens: left out")
    return kept


class PairOrder:
    """The pairs in an order of the seed's, each once an epoch; its position is all that a resume needs."""

    def __init__(self, pairs: list[TokenPair], seed: int) -> None:
        self.pairs, self.seed, self.position = pairs, seed, 0
        rows = repr([(pair.chosen.tokens, pair.rejected.tokens) for pair in pairs])
        self.hash = hashlib.sha256(rows.encode()).hexdigest()

    def next(self, count: int) -> list[TokenPair]:
        """The next `count` pairs, over the end of an epoch into the next."""
        number, places = len(self.pairs), range(self.position, self.position + count)
        self.position += count
        epochs = {place // number for place in places}
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(number) for epoch in epochs}
        return [self.pairs[orders[place // number][place % number]] for place in places]

    def state_dict(self) -> dict[str, int | str]:
        return {"position": self.position, "hash": self.hash}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Raises CheckpointError where the pairs are others."""
        if state["hash"] != self.hash:
            raise CheckpointError(
                "the run has trained on other pairs: give those as dpo.data, or choose another run.dir"
            )
        self.position = int(state["position"])


def pair_batches(pairs: list[TokenPair], *, rank: int, world: int, max_tokens: int, pad_id: int) -> list[MicroBatch]:
    """This rank's micro-batches of a step: rows chosen, rejected, chosen, rejected, ...; each pair weighs the same.

    loss_weights sum to 1 over all tokens of all ranks, a pair's to 1 / len(pairs), each answer's half of it. Every rank
    gets the same number of micro-batches.
    """
    shares = balanced_micro_batches([pair.padded for pair in pairs], world, max_tokens)
    out = []
    for indices in shares[rank]:
        rows = [row for i in indices for row in (pairs[i].chosen, pairs[i].rejected)]
        out.append(collate(rows, [0.5 / (len(pairs) * row.trained_length) for row in rows], pad_id))
    return out
