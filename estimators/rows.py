"""Positions of several requests in one array, each with the row that it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def sum_rows(values: NDArray[Any], row: Rows, num_rows: int) -> Floats:
    """Sums (num_rows, ...) of the values (N, ...) of each row (N,)."""
    if (row[1:] < row[:-1]).any():
        order = row.argsort(kind="stable")
        row, values = row[order], values[order]
    count = np.bincount(row, minlength=num_rows)
    first = count.cumsum() - count
    sums = np.zeros((num_rows, *values.shape[1:]))
    if num_rows <= count.max(initial=0):
        seen = count.nonzero()[0]
        sums[seen] = np.add.reduceat(values, first[seen], axis=0)
        return sums
    # Whole arrays at a time: of 256 rows of 4 x 286 values in 0.3 ms, where reduceat takes 0.8.
    for place in range(count.max()):
        there = count > place
        if there.all():
            sums += values[first + place]
        else:
            sums[there] += values[first[there] + place]
    return sums


def places(row: Rows, count: NDArray[np.intp]) -> tuple[Rows, Rows]:
    """The positions (N,) by row, and which of its row each then is, 0 for the first."""
    order = row.argsort(kind="stable")
    return order, np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
