"""Sums over the history of each of many requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.rows import places, sum_rows
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]


class SlotHistory:
    """Values of each slot's positions, summed over all of them or over the last ones.

    Args:
        shape: of what a position has.
        window: positions that count; 0: all. A slot keeps that many.
    """

    def __init__(self, shape: tuple[int, ...], window: int) -> None:
        self._window = window
        self._values = SlotArray(0.0, shape=(max(1, window), *shape))  # a ring, or the sum
        self._num_seen = SlotArray(0, np.int64)

    def reset(self, slots: Ints) -> None:
        """Forget the positions of slots (n,)."""
        self._values.reset(slots)
        self._num_seen.reset(slots)

    def num_seen(self, slots: Ints) -> NDArray[np.int64]:
        """Positions (n,) that slots ever had."""
        seen: NDArray[np.int64] = self._num_seen.values[slots]
        return seen

    def total(self, slots: Ints) -> Floats:
        """Sums (n, *shape) over the positions that count."""
        total: Floats = self._values.values[slots].sum(axis=1)
        return total

    def add(self, slots: Ints, row: Rows, values: NDArray[Any]) -> None:
        """Add positions: values (N, *shape), row (N,) of slots (n,), oldest first within a row."""
        count = np.bincount(row, minlength=len(slots))
        if self._window == 0:
            self._values.values[slots, 0] += sum_rows(values, row, len(slots))
        else:
            order, place = places(row, count)
            row = row[order]
            last = place >= count[row] - self._window
            row, place, order = row[last], place[last], order[last]
            at = (self._num_seen.values[slots][row] + place) % self._window
            self._values.values[slots[row], at] = values[order]
        self._num_seen.values[slots] += count
