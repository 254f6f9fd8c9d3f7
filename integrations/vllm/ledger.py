"""Slots of an engine's requests, which have strings for names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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

    def admit(self, since: Mapping[str, int]) -> None:
        """Give slots to the requests that have none yet.

        Args:
            since: step before which each of these requests entered, if it is new.
        """
        new = since.keys() - self._slots.keys()
        if new:
            names = [name for name in since if name in new]  # in an order that is always the same
            steps = np.array([since[name] for name in names], np.int64)
            slots = self._governor.admit(len(names), steps)
            self._slots.update(zip(names, slots.tolist(), strict=True))

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
