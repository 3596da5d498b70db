"""Continuous batching with the MTP module as drafter: modeling/slots.py's rows by modeling/speculate.py's step."""

from typing import Any

import torch
from torch import Tensor

from modeling.draw import invert
from modeling.generate import Generator
from modeling.slots import Row, Slots
from modeling.speculate import SpeculativeGenerator, verify
from modeling.stop import StopText


def slots_for(generator: Generator, max_rows: int, stop_text: StopText | None) -> Slots:
    """Slots that draft where the generator does."""
    kind = DraftingSlots if isinstance(generator, SpeculativeGenerator) else Slots
    return kind(generator, max_rows, stop_text)


class DraftingSlots(Slots):
    """Slots whose rows gain one or two tokens a step.

    state: hidden [slots, 2, hidden], following [slots, 2] and fresh [slots], as in SpeculativeRows.
    """

    width = 3  # of the draft, of its acceptance, of the draw

    def __init__(self, generator: SpeculativeGenerator, max_rows: int, stop_text: StopText | None = None) -> None:
        super().__init__(generator, max_rows, stop_text)
        self.generator = generator

    def _advance(self) -> None:
        """Propose, read two, and let the proposal stand or replace it; where it stands, the token after it is drawn."""
        rows, cache, decoder, state = self.rows, self.cache, self.decoder, self.state
        here = self._uniform(rows)
        q = decoder.draft(state["hidden"], state["following"], state["fresh"], cache)
        q = self._distribution(q, self.settings)
        proposed = invert(q, here[:, :1].contiguous())[0].squeeze(1)
        last = torch.tensor([row.tokens[-1] if row is not None else 0 for row in rows], device=self.device)
        logits, hidden = decoder.read_two(torch.stack([last, proposed], 1), cache)

        asking, raw = self._raw(logits[:, 0], rows)
        p = self._distribution(logits[:, 0].clone(), self.settings)
        stands, drawn = verify(p, q, proposed, here[:, 1:])
        firsts = self._forced(rows, drawn.tolist())
        self._note(asking, raw, rows, firsts)
        self._take(rows, firsts)
        # A row that is over, or whose next token is forced, needs no second one.
        accepted = [
            bool(stood) and row is not None and not row.ended and not row.forced and first == token
            for stood, row, first, token in zip(stands.tolist(), rows, firsts, drawn.tolist(), strict=True)
        ]
        seconds = [0] * len(rows)
        more = [slot for slot, stood in enumerate(accepted) if stood]
        if more:
            going = [rows[slot] for slot in more]
            for slot, token in zip(more, self._choose(logits[more, 1], going, self._settings_of(going)), strict=True):
                seconds[slot] = token
            self._take(going, [seconds[slot] for slot in more])
        self.generator.proposed += self.alive
        self.generator.accepted += len(more)

        stood = torch.tensor(accepted, dtype=torch.long, device=self.device)
        following = torch.tensor([firsts, seconds], device=self.device).T.contiguous()
        self.state = {"hidden": hidden, "following": following, "fresh": 1 + stood}
        # Forget the proposals that did not stand: their latents are written over.
        cache.keep((cache.lengths + 1 + stood).clamp_(max=self.cfg.max_position_embeddings))

    def _begin(self, rows: list[Row], part: Any, at: Tensor) -> dict[str, Tensor]:
        last = part.hidden[at]
        tokens = torch.tensor([row.tokens[-1] for row in rows], device=self.device)
        return {
            "hidden": torch.stack([last, torch.zeros_like(last)], 1),
            "following": torch.stack([tokens, torch.zeros_like(tokens)], 1),
            "fresh": torch.ones_like(tokens),
        }
