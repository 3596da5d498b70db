"""What goes through the network at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class MicroBatch:
    """Rows that go through the network together, whole ones in every layout; each tensor [batch, seq].

    Example, one row "a b c" of a step with two trained tokens: tokens [[a, b]], labels [[b, c]],
    loss_weights [[.5, .5]].
    """

    tokens: Tensor
    """Inputs, int64."""
    labels: Tensor
    """Targets, int64: the tokens one to the left."""
    loss_weights: Tensor
    """Weight of each label, FP32; 0 on prompts and padding. They sum to 1 over the micro-batches of all data ranks."""
    padding: Tensor | None = None
    """True where there is no token: no load to an expert, and nothing to balance. None: there is none."""
    document_ids: Tensor | None = None
    """Number of the document each token belongs to, for rows of several; attention stays inside. None: one a row."""
    images: Tensor | None = None
    """uint8 [images, height, width], of the rows that have one, in their order; None: the rows are text alone."""
    image_rows: Tensor | None = None
    """The row of each image, int64 [images]."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What else the loss function reads, [batch, seq] or [batch]."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {key: value.to(device) if torch.is_tensor(value) else value for key, value in moved.items()}
        moved["extras"] = {key: value.to(device) for key, value in self.extras.items()}
        return MicroBatch(**moved)

    def widened(self, multiple: int) -> MicroBatch:
        """The same with padding at the right, so that seq is a multiple: ranks share a row's places evenly."""
        more = -self.tokens.shape[1] % multiple
        if not more:
            return self
        padding = self.padding if self.padding is not None else torch.zeros_like(self.tokens, dtype=torch.bool)
        ids = self.document_ids
        return MicroBatch(
            tokens=F.pad(self.tokens, (0, more)),
            labels=F.pad(self.labels, (0, more)),
            loss_weights=F.pad(self.loss_weights, (0, more)),
            padding=F.pad(padding, (0, more), value=True),
            document_ids=None if ids is None else F.pad(ids, (0, more), value=-1),
            images=self.images,
            image_rows=self.image_rows,
            extras={k: F.pad(v, (0, more)) if v.shape == self.tokens.shape else v for k, v in self.extras.items()},
        )

    def blank(self) -> MicroBatch:
        """One row of its kind that is all padding and weighs nothing."""
        return MicroBatch(
            tokens=self.tokens[:1],
            labels=self.labels[:1],
            loss_weights=torch.zeros_like(self.loss_weights[:1]),
            padding=torch.ones_like(self.tokens[:1], dtype=torch.bool),
            document_ids=None if self.document_ids is None else self.document_ids[:1],
            extras={key: value[:1] for key, value in self.extras.items()},
        )

    def attention_mask(self) -> Tensor | None:
        """[batch, 1, seq, seq], True where a token must not look; None is plain causal."""
        if self.document_ids is None:
            return None
        ids = self.document_ids
        seq = ids.shape[1]
        later = torch.ones(seq, seq, dtype=torch.bool, device=ids.device).triu(1)
        return (later | (ids[:, :, None] != ids[:, None, :]))[:, None]

    def num_tokens(self) -> int:
        """Tokens in the rows, padding left out."""
        return self.tokens.numel() - (0 if self.padding is None else int(self.padding.sum()))

    def mtp_weights(self) -> Tensor:
        """loss_weights without the first position of a row's later documents.

        Labels and weights are moved one to the left together for each MTP depth (modeling/mtp.py): the first of a row
        falls out, and the first of a later document would be predicted across the border.
        """
        if self.document_ids is None:
            return self.loss_weights
        weights = self.loss_weights.clone()
        weights[:, 1:].masked_fill_(self.document_ids[:, 1:] != self.document_ids[:, :-1], 0)
        return weights
