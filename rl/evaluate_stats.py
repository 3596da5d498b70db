"""Statistics of evaluation: no model, no torch."""

from collections.abc import Sequence
from math import comb

import numpy as np


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased chance that at least one of k answers is right, from `right` of `samples` (Chen et al. 2021, eq. 1).

    1 - C(samples - right, k) / C(samples, k). Example: 1 right of 4, k = 2: 1 - C(3,2)/C(4,2) = 1/2.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {right} right in {samples} samples")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority_at_k(answers: Sequence[str | None], accuracies: Sequence[float]) -> float:
    """Accuracy of the answer given most often; the first such on a tie. Answers compare as text, None does not vote.

    Example: answers 7, 8, 7, None with accuracies 0, 1, 0, 0 give 0.
    """
    votes: dict[str, int] = {}
    right: dict[str, float] = {}
    for answer, accuracy in zip(answers, accuracies, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
            right.setdefault(answer, float(accuracy))
    return right[max(votes, key=votes.__getitem__)] if votes else 0.0


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """-> (mean, low, high): percentile bootstrap over values, one a question. Same seed, same interval."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"one value a question is needed, not shape {values.shape}")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def bootstrap_ratio(
    sums: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float] | None:
    """-> (sum(sums) / sum(counts), low, high), questions resampled; None where nothing was counted.

    For means over some of the answers, as the tokens of the right ones: each question gives its sum and how many it
    counted, and a question without any stays in the draw. Example: sums 10, 0, counts 2, 0 give (5, 5, 5).
    """
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if sums.shape != counts.shape or sums.ndim != 1:
        raise ValueError(f"one sum and one count a question are needed, not shapes {sums.shape} and {counts.shape}")
    if counts.sum() <= 0:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    total = counts[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sums.sum() / counts.sum()), float(low), float(high)
