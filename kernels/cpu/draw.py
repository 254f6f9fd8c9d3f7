"""A draw by the inverse CDF in one pass over the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256  # tokens


def draw(weights: NDArray[Any], uniform: float) -> tuple[int, float]:
    """A token as `reference.draw.draw`, and the total weight.

    The sum of each chunk of tokens says in which one the draw falls; only that one is cumulated.

    Args:
        weights: (vocab,) float32 or float64, at least 0.
        uniform: in (0, 1).

    Returns:
        The token, which means nothing where the total is 0 or NaN.
    """
    start, before, total = 0, 0.0, None
    if len(weights) > 4 * _CHUNK:
        sums = np.add.reduceat(weights, np.arange(0, len(weights), _CHUNK))
        sums = sums.cumsum(dtype=np.float64)
        total = float(sums[-1])
        chunk = min(int(sums.searchsorted(uniform * total, "right")), len(sums) - 1)
        start, before = chunk * _CHUNK, float(sums[chunk - 1]) if chunk else 0.0
        weights = weights[start : start + _CHUNK]
    inside = weights.cumsum(dtype=np.float64)
    if total is None:
        total = float(inside[-1])
    # What is left of it in there, and less than all, however the two sums were rounded.
    left = min(uniform * total - before, np.nextafter(inside[-1], 0.0))
    return start + min(int(inside.searchsorted(left, "right")), len(inside) - 1), total
