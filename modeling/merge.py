"""Images' vectors in the place of their tokens' embeddings."""

import torch
from torch import Tensor

from infra.errors import R1Error


def merge(embedded: Tensor, marked: Tensor, features: Tensor, rows: Tensor) -> Tensor:
    """embedded [batch, seq, hidden] with features [images, places, hidden] at the first `places` marks of their rows.

    marked [batch, seq]: where the image's token stands. A model may write that token itself: marks beyond the first
    `places` of a row, and all of a row without an image, are text. rows: the row of each image, int64 [images].
    Example: two rows, the second with an image of two patches: marked [[0, 0, 1], [0, 1, 1]], features [1, 2, hidden],
    rows [1]. Raises R1Error where a row has fewer marks.
    """
    places = features.shape[1]
    own = marked[rows]
    first = own & (own.cumsum(1) <= places)
    if int(first.sum()) != len(rows) * places:
        raise R1Error(f"the {len(rows)} rows with images have room for {int(first.sum())} patches, not {places} each")
    there = torch.zeros_like(marked)
    there[rows] = first
    return embedded.masked_scatter(there.unsqueeze(-1), features.to(embedded.dtype))
