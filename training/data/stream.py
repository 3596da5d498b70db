"""Token ids of the corpus, step by step, resumable at the exact document."""

from collections.abc import Callable
from typing import Any

from infra.errors import CheckpointError, ConfigError
from training.data.corpus import CorpusConfig, document

CHUNK = 64
"Documents encoded at a time."


class DocumentStream:
    """Documents as token ids, <eos> at the end of each.

    A step's documents do not depend on ranks: every rank reads the same ones and takes its share of rows afterwards
    (training/data/packing.py), which costs each rank some milliseconds a step and needs no communication. Where the
    stream stands is two numbers, so a resume is exact.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], list[list[int]]],
        cfg: CorpusConfig,
        seed: int,
        *,
        eos_id: int,
        max_document_tokens: int = 384,
        start: int = 0,
    ) -> None:
        """encode: texts -> token ids of each, special tokens included, no <eos> added.

        max_document_tokens: the longest document that the model can read; a longer one is an error, not cut.
        """
        self.encode, self.cfg, self.seed, self.eos_id = encode, cfg, seed, eos_id
        self.max_document_tokens, self.position = max_document_tokens, start
        self._ahead: list[list[int]] = []  # encoded and not given out yet, last first
        self._used = 0  # tokens of the document at hand that are in rows already

    def next_batch(self, tokens: int) -> list[list[int]]:
        """The next documents, up to and with the one that makes it `tokens` labels (n tokens have n - 1)."""
        batch, labels = [], 0
        while labels < tokens:
            batch.append(self.next_document())
            labels += len(batch[-1]) - 1
        return batch

    def next_rows(self, number: int, tokens: int) -> list[list[int]]:
        """Rows of tokens + 1 tokens, so of `tokens` labels each: documents end to end, cut where a row is full."""
        rows, row = [], []
        while len(rows) < number:
            ids = self._next()
            taken = ids[self._used : self._used + tokens + 1 - len(row)]
            row += taken
            self._used += len(taken)
            if self._used == len(ids):
                self._drop()
            if len(row) == tokens + 1:
                rows.append(row)
                row = []
        return rows

    def next_document(self) -> list[int]:
        """Token ids of the next document."""
        ids = self._next()
        if len(ids) > self.max_document_tokens:
            raise ConfigError(
                "model.max_position_embeddings",
                self.max_document_tokens,
                f"document {self.position} has {len(ids)} tokens",
                f"set {len(ids)} or more, or a larger pretrain.tokenizer_vocab",
            )
        self._drop()
        return ids

    def _next(self) -> list[int]:
        """The document at the stream's position."""
        if not self._ahead:
            texts = [document(self.cfg, self.seed, self.position + i) for i in range(CHUNK)]
            self._ahead = [[*ids, self.eos_id] for ids in self.encode(texts)][::-1]
        return self._ahead[-1]

    def _drop(self) -> None:
        """On to the one after."""
        self._ahead.pop()
        self.position, self._used = self.position + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain types, the same on every rank."""
        return {"seed": self.seed, "position": self.position, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last document given out. Raises CheckpointError where the seed is another."""
        if state["seed"] != self.seed:
            raise CheckpointError(
                f"the checkpoint reads the corpus with seed {state['seed']}, this run with {self.seed}: "
                f"set run.seed={state['seed']} or start a new run folder"
            )
        self.position, self._used = int(state["position"]), int(state.get("used", 0))
        self._ahead = []
