"""Arrays with one row per slot, which grow as the governor hands out more slots."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class SlotArray:
    """A numpy array whose first axis is the slot, filled with a start value.

    Slots are small integers that the governor reuses, so memory is bounded by the largest number
    of requests that were ever live together.
    """

    def __init__(self, fill: float, dtype: type = np.float64) -> None:
        self.fill = fill
        self.values: NDArray[Any] = np.full(16, fill, dtype)

    def reset(self, slots: NDArray[np.int32]) -> None:
        """Set slots (n,) to the start value, growing the array where it is too short."""
        highest = int(slots.max(initial=-1))
        if highest >= len(self.values):
            grown = np.full(2 * highest + 1, self.fill, self.values.dtype)
            grown[: len(self.values)] = self.values
            self.values = grown
        self.values[slots] = self.fill
