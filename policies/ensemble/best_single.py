"""The member that did best of late."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyball.estimators.rows import sum_rows
from flyball.estimators.slots import SlotArray
from flyball.policies.ensemble.base import (
    EnsemblePolicy,
    EnsembleSettings,
    Evidence,
    Floats,
    Ints,
    Rows,
    one_hot,
)

# Positions of a text. 15 follow a switch faster by a third, and know less of greedy hits.
_MEMORY = 30.0
_SHARED_MEMORY = 200.0  # positions of all texts
_PRIOR = 10.0  # positions that the knowledge of other texts counts for


class BestSingleSettings(EnsembleSettings):
    """Settings of the best_single policy."""

    policy: Literal["best_single"] = "best_single"


class BestSingle(EnsemblePolicy):
    """Only the member of the largest mean overlap, recent positions counting most.

    Per request and member the mean of 1 - TV(p, q_j), under greedy decoding of
    [argmax q_j = argmax p], over the positions where the member was present, the last 30 or so;
    a new request begins with 10 positions of the mean over all requests. The first of equals is
    followed. All members are seen at every position, so nothing has to be explored.
    """

    Settings = BestSingleSettings

    def __init__(
        self, settings: BestSingleSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        self._shared = np.zeros((2, num_members))  # summed overlaps, positions
        self._sums = SlotArray(0.0, shape=(2, num_members))

    def evidence(self, sampled: bool) -> Evidence:
        """The overlap of each member."""
        return "overlap"

    def admit(self, slots: Ints) -> None:
        """Start new requests from the mean over all."""
        self._sums.fill = self._shared * (_PRIOR / np.maximum(self._shared[1], _PRIOR))
        self._sums.reset(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """1 for the best member of each request."""
        overlap, count = self._sums.values[slots].swapaxes(0, 1)
        best = (overlap / np.maximum(count, 1e-9)).argmax(axis=1)
        return one_hot(best, self.num_members)

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Take the overlaps (N, m) into the means."""
        known = ~np.isnan(values)
        pair = np.stack([np.where(known, values, 0.0), known], axis=1)  # (N, 2, m)
        fresh = sum_rows(pair, row, len(slots))
        seen = known.any(axis=1)
        count = np.bincount(row[seen], minlength=len(slots))
        kept = np.exp(-count / _MEMORY)[:, None, None]
        self._sums.values[slots] = kept * self._sums.values[slots] + fresh
        self._shared = np.exp(-seen.sum() / _SHARED_MEMORY) * self._shared + fresh.sum(axis=0)
