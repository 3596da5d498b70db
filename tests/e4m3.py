"""FP8 arithmetic for the tests, in numpy and FP64: the format from its definition, blocks by loops. Shares nothing with
modeling/fp8.py.
"""

import numpy as np

# Four bits of exponent (bias 7), three of mantissa, exponent 0 subnormal; the last code is NaN, there is no infinity.
_POSITIVE = [(1 + (c & 7) / 8) * 2.0 ** ((c >> 3) - 7) if c >> 3 else (c & 7) / 8 * 2.0**-6 for c in range(127)]
GRID = np.array(_POSITIVE)


def rounded(x: np.ndarray) -> np.ndarray:
    """x, at most 448 in size, to the nearest number of the format; halfway to the even mantissa."""
    above = np.searchsorted(GRID, np.abs(x)).clip(1, len(GRID) - 1)
    below = above - 1
    to_above, to_below = GRID[above] - np.abs(x), np.abs(x) - GRID[below]
    even = np.where(above % 2 == 0, above, below)
    nearest = np.where(to_above < to_below, above, np.where(to_above > to_below, below, even))
    return np.copysign(GRID[nearest], x)


def through_fp8(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """What is left of x [r, c] after quantisation in blocks of rows x columns, scales in FP32."""
    out = np.zeros(x.shape)
    for top in range(0, x.shape[0], rows):
        for left in range(0, x.shape[1], columns):
            place = np.s_[top : top + rows, left : left + columns]
            block = x[place].astype(np.float32)
            scale = np.float32(np.abs(block).max()) / np.float32(448)
            if scale > 0:
                scaled = (block / scale).astype(np.float64)
                out[place] = rounded(scaled) * float(scale)
    return out


def linear(x: np.ndarray, weight: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, dx, dw) of y = x weight^T with V3's blocks: each operand's tiles run along what its product sums over."""
    w = through_fp8(weight, 128, 128)
    y = through_fp8(x, 1, 128) @ w.T
    d_x = through_fp8(grad, 1, 128) @ w
    d_w = through_fp8(grad, 128, 1).T @ through_fp8(x, 128, 1)
    return y, d_x, d_w
