"""Outcomes that wait to be learned from.

They are gathered in a journal and learned from every few rounds, in one vectorised pass: that
costs a fraction of learning each round, and what is believed changes slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

MOST_ROUNDS = 16  # after which a journal is due; sooner after new requests
MOST_ROWS = 4096  # after which it is due sooner
NO_CONFIDENCE = -1.0  # where none was given


@dataclass
class Tokens:
    """Observed tokens of several rounds, one after the other.

    Attributes:
        row: (t,) the row of the journal that each token stands in.
        position: (t,) its position in its draft, from 0.
        rejected: (t,) 1 where the target rejected it, else 0.
    """

    row: NDArray[np.intp]
    position: NDArray[np.intp]
    rejected: Floats


class Journal:
    """Rounds that were observed and not learned from yet; memory for a few rounds.

    Args:
        width: most tokens of a row.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._clear(MOST_ROWS)

    def _clear(self, capacity: int) -> None:
        self.num_rows = self.num_rounds = 0
        self._ints = np.zeros((4, capacity), np.int32)
        self._signs = np.empty((2, capacity, self._width))
        self._foreseen = np.full(capacity, np.nan)

    @property
    def due(self) -> bool:
        """Whether it is time to learn."""
        return self.num_rounds >= MOST_ROUNDS or self.num_rows >= MOST_ROWS

    def add(
        self,
        slots: Ints,
        accepted: Ints,
        observed: Ints,
        strength: Ints | int = 0,
        confidence: Floats | None = None,
        entropy: Floats | None = None,
        num_rounds: int = 1,
        foreseen: Floats | None = None,
    ) -> None:
        """Note the rows (n,) of some rounds; (n, >= observed) confidence and entropy, if known.

        And (n,) what is expected of the first token that was not verified, if that was the choice.
        """
        start, stop = self.num_rows, self.num_rows + len(slots)
        if stop > self._ints.shape[1]:
            ints, signs = self._ints[:, :start], self._signs[:, :start]
            before, expected = self.num_rounds, self._foreseen[:start]
            self._clear(2 * stop)
            self._ints[:, :start], self._signs[:, :start] = ints, signs
            self._foreseen[:start] = expected
            self.num_rounds = before
        block = self._ints[:, start:stop]
        block[0], block[1], block[2], block[3] = slots, accepted, observed, strength
        self._foreseen[start:stop] = np.nan if foreseen is None else foreseen
        places = self._signs[:, start:stop]
        for place, sign, missing in zip(
            places, (confidence, entropy), (NO_CONFIDENCE, np.nan), strict=True
        ):
            if sign is None:
                place[:] = missing
            else:
                width = min(self._width, sign.shape[1])
                place[:, :width] = sign[:, :width]
                place[:, width:] = missing  # not what stood there before
        self.num_rows = stop
        self.num_rounds += num_rounds

    @property
    def foreseen(self) -> Floats:
        """What is expected (rows,) of tokens that were not verified; NaN for nothing."""
        return self._foreseen[: self.num_rows]

    def take(self) -> tuple[NDArray[np.int32], Floats, int]:
        """Slots, accepted, observed, strength (4, rows); confidence, entropy (2, rows, width).

        And the number of rounds. They are views, good until the next `add`.
        """
        taken = (self._ints[:, : self.num_rows], self._signs[:, : self.num_rows])
        num_rounds, self.num_rows, self.num_rounds = self.num_rounds, 0, 0
        return *taken, num_rounds


def unroll(accepted: Ints, observed: Ints) -> Tokens:
    """The tokens of rows (r,) of which the first `observed` were seen."""
    ends = observed.cumsum()
    row = np.arange(len(observed)).repeat(observed)
    position = np.arange(len(row)) - (ends - observed)[row]
    return Tokens(row, position, (position >= accepted[row]).astype(np.float64))
