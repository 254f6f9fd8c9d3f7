"""Settled text as its draft saw it, until shadows have walked over it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Outcomes
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_CAPACITY = 256  # tokens of a request that wait to be walked over
_MOST_PENDING = 64  # records that are not put in their place yet

Signs = tuple[Floats | None, Floats | None, Floats | None]
_UNSEEN: Signs = (None, None, None)


class LiveText:
    """Settled text of each request that no shadow has walked over, as its draft saw it.

    What rounds settle is only noted; `signs` puts it in its place, many rounds at once.

    Attributes:
        size: tokens of each request.
    """

    def __init__(self) -> None:
        self.size = SlotArray(0, np.int64)
        self._unread = SlotArray(0, np.int64)  # settled tokens that the draft may still read
        self._signs = SlotArray(np.nan, shape=(3, _CAPACITY))
        # Slots, first place and tokens (n,) of each record, and what was seen of them.
        self._pending: list[tuple[Ints, NDArray[np.int64], NDArray[np.int64], Signs]] = []

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots left."""
        self._settle()
        for array in (self.size, self._unread, self._signs):
            array.reset(slots)

    def clear(self) -> None:
        """Begin anew with all requests."""
        self._pending.clear()
        self.size.values[:] = 0
        self._unread.values[:] = 0

    @property
    def signs(self) -> Floats:
        """Whether the draft was right, NaN where nobody saw; how sure it was; its entropy.

        (slots, 3, capacity)
        """
        self._settle()
        return self._signs.values

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
        self._add(slots, gap, _UNSEEN)
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

    def _add(self, slots: Ints, count: NDArray[np.int64], signs: Signs) -> None:
        if not count.any():
            return
        start = self.size.values[slots]
        # Where nobody walked for long: begin anew rather than keep all of it.
        start = np.where(start + count > _CAPACITY, 0, start)
        count = np.minimum(count, _CAPACITY)
        self.size.values[slots] = start + count
        match, sure, spread = (None if sign is None else sign.copy() for sign in signs)
        self._pending.append((slots.copy(), start, count, (match, sure, spread)))
        if len(self._pending) >= _MOST_PENDING:
            self._settle()

    def _settle(self) -> None:
        """Put what is pending in its place."""
        if not self._pending:
            return
        slots, start, count = (np.concatenate([r[i] for r in self._pending]) for i in range(3))
        seen = np.full((3, len(slots), int(count.max())), np.nan)
        first = 0
        for of_record, _, _, signs in self._pending:
            rows = slice(first, first + len(of_record))
            first = rows.stop
            for place, sign in zip(seen[:, rows], signs, strict=True):
                if sign is not None:
                    width = min(seen.shape[2], sign.shape[1])
                    place[:, :width] = sign[:, :width]
        self._pending.clear()
        row, column = (np.arange(seen.shape[2]) < count[:, None]).nonzero()
        # Later records come last, and win where a request began anew.
        self._signs.values[slots[row], :, start[row] + column] = seen[:, row, column].T

    def drop(self, slots: Ints, count: NDArray[np.int64]) -> None:
        """Drop the first tokens (n,) of these requests."""
        longest = int(self.size.values[slots].max(initial=0))
        place = np.minimum(np.arange(longest) + count[:, None], longest - 1)
        signs = self.signs
        signs[slots, :, :longest] = np.take_along_axis(
            signs[slots, :, :longest], place[:, None, :], axis=2
        )
        self.size.values[slots] -= count
