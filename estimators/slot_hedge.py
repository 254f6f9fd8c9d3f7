"""Hedge with fixed share for each of many requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.rows import places, sum_rows
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]


class SlotHedge:
    """What `FixedShare` is for one sequence of gains, for every slot; all gains are seen.

        w[j] <- w[j] exp(rate x gain[j]) / Z,   w <- (1 - share) w + share x prior

    once an observation, but that the observations of a round share at its end. An expert whose
    gain is unknown (NaN) sleeps: those awake share their own weight anew (Freund et al. 1997).

    A new slot starts from `start`, a running mean of the weights of all slots that learn. With
    concave gains the mean of weights is worth at least the mean of what they are worth.

    Args:
        prior: (experts,) weight of each at first, and of what is shared.
        rate: of learning.
        share: of the weight that is shared anew by an observation.
        memory: observations, of all slots together, over which `start` forgets.

    Attributes:
        start: (experts,) weights of a new slot, sum 1.
    """

    def __init__(self, prior: Floats, rate: float, share: float, memory: float) -> None:
        self._prior = prior / prior.sum()
        self._rate = rate
        self._share = share
        self._memory = memory
        self.start: Floats = self._prior
        self._weight = SlotArray(self.start, shape=prior.shape)

    def reset(self, slots: Ints) -> None:
        """Start slots (n,) anew."""
        self._weight.fill = self.start
        self._weight.reset(slots)

    def weight(self, slots: Ints) -> Floats:
        """Weights (n, experts) of slots (n,), each row of sum 1."""
        weight: Floats = self._weight.values[slots]
        return weight

    def learn(self, slots: Ints, row: Rows, gain: Floats) -> None:
        """Take in gains (N, experts) of observations; row (N,) says of which slot (n,)."""
        weight = self.weight(slots)
        total = sum_rows(gain, row, len(slots))
        if np.isnan(total).any():
            row, gain = _known(row, gain)
            self._wake(weight, row, gain)
        else:
            # In place: fresh arrays of this size cost more than what is done with them.
            total -= total.max(axis=1, keepdims=True)
            total *= self._rate
            weight *= np.exp(total, out=total)
            weight /= weight.sum(axis=1, keepdims=True)
        if len(row) == 0:
            return
        count = np.bincount(row, minlength=len(slots))
        kept = (1.0 - self._share) ** count[:, None]
        weight *= kept
        weight += np.multiply(1.0 - kept, self._prior, out=total)
        self._weight.values[slots] = weight
        seen = 1.0 - np.exp(-len(row) / self._memory)
        self.start = (1.0 - seen) * self.start + (seen / len(row)) * (count @ weight)

    def _wake(self, weight: Floats, row: Rows, gain: Floats) -> None:
        """Change weights (n, experts), one observation of each row after the other.

        Who sleeps may change from one to the next, and with it who shares what.
        """
        order, place = places(row, np.bincount(row, minlength=len(weight)))
        for turn in range(place.max(initial=-1) + 1):
            chosen = order[place == turn]
            at, known = row[chosen], gain[chosen]
            asleep = np.isnan(known)
            before = np.where(asleep, 0.0, weight[at])
            after = before * np.exp(self._rate * np.where(asleep, 0.0, known))
            after *= before.sum(axis=1, keepdims=True) / after.sum(axis=1, keepdims=True)
            weight[at] = np.where(asleep, weight[at], after)


def _known(row: Rows, gain: Floats) -> tuple[Rows, Floats]:
    """The observations where anything is known."""
    some = ~np.isnan(gain).all(axis=1)
    return row[some], gain[some]
