"""Arrays with one row per slot, which grow as the governor hands out more slots."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class SlotArray:
    """A numpy array whose first axis is the slot, filled with a start value.

    Slots are small integers that the governor reuses, so memory is bounded by the largest number
    of requests that were ever live together.

    Args:
        fill: the start value.
        dtype: of the values.
        shape: of what one slot has; () for a number.
    """

    def __init__(
        self,
        fill: float | NDArray[Any],
        dtype: type = np.float64,
        shape: tuple[int, ...] = (),
    ) -> None:
        self.fill = fill
        self.values: NDArray[Any] = np.full((16, *shape), fill, dtype)

    def reset(self, slots: NDArray[np.int32]) -> None:
        """Set slots (n,) to the start value, growing the array where it is too short."""
        highest = int(slots.max(initial=-1))
        if highest >= len(self.values):
            shape = (2 * highest + 1, *self.values.shape[1:])
            grown = np.full(shape, self.fill, self.values.dtype)
            grown[: len(self.values)] = self.values
            self.values = grown
        self.values[slots] = self.fill


class SlotPool:
    """Hands out slots and knows since when each is taken.

    Attributes:
        num_slots: slots that were ever taken at the same time.
    """

    def __init__(self) -> None:
        self.num_slots = 0
        self._free: list[int] = []
        self._since = SlotArray(np.inf)  # step of admission; infinite while free

    @property
    def taken(self) -> NDArray[np.int32]:
        """All slots that are taken."""
        return np.flatnonzero(np.isfinite(self._since.values)).astype(np.int32)

    def take(self, num_requests: int, step_id: int | NDArray[np.int64]) -> NDArray[np.int32]:
        """Slots (num_requests,) for requests that enter after a step, or steps (num_requests,)."""
        reused = [self._free.pop() for _ in range(min(num_requests, len(self._free)))]
        fresh = range(self.num_slots, self.num_slots + num_requests - len(reused))
        self.num_slots += len(fresh)
        slots = np.array([*reused, *fresh], np.int32)
        self._since.reset(slots)
        self._since.values[slots] = step_id
        return slots

    def give_back(self, slots: NDArray[np.int32]) -> None:
        """Free slots; those that are free already, or were never taken, stay so."""
        known = slots[(slots >= 0) & (slots < self.num_slots)]
        taken = known[np.isfinite(self._since.values[known])]
        live = list(dict.fromkeys(taken.tolist()))  # each once
        self._since.values[live] = np.inf
        self._free.extend(live)

    def current(
        self, slots: NDArray[np.int32], step_id: int | NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which slots (n,) belong to the same request since before a step, or steps (n,)."""
        result: NDArray[np.bool_] = self._since.values[slots] < step_id
        return result
