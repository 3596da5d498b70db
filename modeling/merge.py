"""Images' vectors in the place of their tokens' embeddings."""

from torch import Tensor

from infra.errors import R1Error


def merge(embedded: Tensor, places: Tensor, features: Tensor) -> Tensor:
    """embedded [batch, seq, hidden] with the features [images, places, hidden] where places [batch, seq] is True.

    Example: two rows, the second with an image of two patches: places [[0, 0, 0], [0, 1, 1]], features [1, 2, hidden].
    Raises R1Error where there are not as many places as features.
    """
    wanted, given = int(places.sum()), features.shape[0] * features.shape[1]
    if wanted != given:
        raise R1Error(f"the rows have room for {wanted} patches of images, and there are {given}")
    return embedded.masked_scatter(places.unsqueeze(-1), features.to(embedded.dtype))
