"""Slots of an engine's requests, which have strings for names."""

from __future__ import annotations

from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import NDArray

from flyball.controller.governor import Governor

Ints = NDArray[np.int32]


class Ledger:
    """Knows the slot of every request.

    A request keeps its slot while it is preempted, until the engine frees it and what it did has
    been handed in.

    Args:
        governor: that hands out the slots.
    """

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._slots: dict[str, int] = {}
        self._gone: list[str] = []

    def admit(self, names: Set[str], since: int | None = None) -> None:
        """Give slots to the requests that have none yet.

        Args:
            names: of the requests.
            since: step before which the new ones entered; now by default.
        """
        if not self._slots.keys() >= names:
            new = [name for name in names if name not in self._slots]
            slots = self._governor.admit(len(new), since)
            self._slots.update(zip(new, slots.tolist(), strict=True))

    def slots(self, names: Iterable[str]) -> Ints:
        """Slots (n,) of these requests, which have been admitted."""
        return np.array([self._slots[name] for name in names], np.int32)

    def free(self, name: str) -> None:
        """The engine is done with a request."""
        self._gone.append(name)

    def settle(self) -> None:
        """Give back the slots of requests that are gone, after all of theirs was handed in."""
        gone = [self._slots.pop(name) for name in self._gone if name in self._slots]
        self._gone.clear()
        self._release(gone)

    def close(self) -> None:
        """Give back all slots."""
        slots, self._slots = self._slots, {}
        self._release(list(slots.values()))

    def _release(self, slots: list[int]) -> None:
        if slots:
            self._governor.release(np.array(slots, np.int32))
