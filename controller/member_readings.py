"""What an ensemble's members would have proposed, gathered over a few rounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_MOST_ROUNDS = 8


class MemberReadings:
    """Rounds of the same requests: learning from several at once costs less."""

    def __init__(self) -> None:
        self._slots: Ints = np.zeros(0, np.int32)
        self._matches: list[Floats] = []

    @property
    def num_rounds(self) -> int:
        """Rounds gathered so far."""
        return len(self._matches)

    @property
    def full(self) -> bool:
        """Whether it is time to take them."""
        return len(self._matches) >= _MOST_ROUNDS

    def takes(self, slots: Ints) -> bool:
        """Whether a round of these requests (n,) may be added to what is there."""
        return not self._matches or np.array_equal(self._slots, slots)

    def add(self, slots: Ints, match: Floats) -> None:
        """Add a round: match (n, w, members) of requests (n,)."""
        self._slots = slots
        self._matches.append(match)

    def take(self) -> tuple[Ints, Floats]:
        """The requests, and what was gathered (n, all w, members); nothing is left."""
        match = np.concatenate(self._matches, axis=1)
        self._matches.clear()
        return self._slots, match
