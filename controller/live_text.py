"""Settled text as its draft saw it, until shadows have walked over it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Outcomes
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_CAPACITY = 256  # tokens of a request that wait to be walked over


class LiveText:
    """Settled text of each request that no shadow has walked over, as its draft saw it.

    Attributes:
        size: tokens of each request.
        signs: (slots, 3, capacity) whether the draft was right, NaN where nobody saw; how sure
            it was; its entropy.
    """

    def __init__(self) -> None:
        self.size = SlotArray(0, np.int64)
        self._unread = SlotArray(0, np.int64)  # settled tokens that the draft may still read
        self.signs = SlotArray(np.nan, shape=(3, _CAPACITY))

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots left."""
        for array in (self.size, self._unread, self.signs):
            array.reset(slots)

    def clear(self) -> None:
        """Begin anew with all requests."""
        self.size.values[:] = 0
        self._unread.values[:] = 0

    def note(self, rows: Outcomes) -> None:
        """Add what a round settled.

        Settled tokens that no draft saw wait for it to read them; a new draft ends the wait.
        """
        slots, observed = rows.slots, rows.observed.astype(np.int64)
        drafted = observed > 0
        unread = self._unread.values[slots]
        settled = rows.accepted + 1 - observed
        self._unread.values[slots] = np.where(drafted, settled, unread + settled)
        gap = np.where(drafted, unread, 0)
        if gap.any():
            self._add(slots, gap, ())
        width = int(observed.max(initial=0))
        if width:
            match = (np.arange(width) < rows.accepted[:, None]).astype(np.float64)
            self._add(slots, observed, (match, rows.confidence, rows.entropy))

    def read(
        self, slots: Ints, match: Floats, confidence: Floats | None, entropy: Floats | None
    ) -> None:
        """Add text that the draft read; NaN at the end of a row where there is none."""
        count = np.count_nonzero(match == match, axis=1)
        self._add(slots, count, (match, confidence, entropy))
        self._unread.values[slots] = np.maximum(self._unread.values[slots] - count, 0)

    def _add(
        self, slots: Ints, count: NDArray[np.int64], signs: tuple[Floats | None, ...]
    ) -> None:
        width = int(count.max(initial=0))
        start = self.size.values[slots]
        too_long = start + count > _CAPACITY
        if too_long.any():
            # Nobody walked for long: begin anew rather than keep all of it.
            start = np.where(too_long, 0, start)
        count = np.minimum(count, _CAPACITY)
        row, column = (np.arange(min(width, _CAPACITY)) < count[:, None]).nonzero()
        place = start[row] + column
        self.signs.values[slots[row], :, place] = np.nan
        for index, sign in enumerate(signs):
            if sign is not None:
                known = column < sign.shape[1]
                where = (slots[row[known]], index, place[known])
                self.signs.values[where] = sign[row[known], column[known]]
        self.size.values[slots] = start + count

    def drop(self, slots: Ints, count: NDArray[np.int64]) -> None:
        """Drop the first tokens (n,) of these requests."""
        place = np.minimum(np.arange(_CAPACITY) + count[:, None], _CAPACITY - 1)
        self.signs.values[slots] = np.take_along_axis(
            self.signs.values[slots], place[:, None, :], axis=2
        )
        self.size.values[slots] -= count
