"""NormalHedge for each of many requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.rows import sum_rows
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]

_HALVINGS = 20  # of a bracket that is at most 1 + ln(experts) wide, in relative terms


class SlotNormalHedge:
    """Weights without a learning rate, from the regret R towards each expert.

        w[j] ~ [R_j]+ / c exp([R_j]+^2 / 2c),   c such that mean_j exp([R_j]+^2 / 2c) = e

    NormalHedge (Chaudhuri, Freund and Hsu 2009, algorithm 1); all weigh alike where no regret is
    above 0. R_j sums what expert j gained more than the weights did, a share of it forgotten at
    every observation, so that a better expert can be found again after a change. An expert
    whose gain is unknown (NaN) sleeps: its regret stays, and the others are compared with what
    their own weights gained.

    Args:
        num_experts: how many to choose from.
        forgotten: share of a regret that an observation forgets.
    """

    def __init__(self, num_experts: int, forgotten: float) -> None:
        self._forgotten = forgotten
        self._regret = SlotArray(0.0, shape=(num_experts,))

    def reset(self, slots: Ints) -> None:
        """Start slots (n,) anew."""
        self._regret.reset(slots)

    def weight(self, slots: Ints) -> Floats:
        """Weights (n, experts) of slots (n,), each row of sum 1."""
        return normal_weights(self._regret.values[slots])

    def learn(self, slots: Ints, row: Rows, gain: Floats) -> None:
        """Take in gains (N, experts) of observations; row (N,) says of which slot (n,)."""
        asleep = np.isnan(gain)
        known = np.where(asleep, 0.0, gain)
        share = np.where(asleep, 0.0, self.weight(slots)[row])
        awake = share.sum(axis=1, keepdims=True)
        # Where those awake have no weight at all they are compared with their plain mean.
        share = np.where(awake > 0.0, share, ~asleep)
        awake = np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        own = (share / awake * known).sum(axis=1, keepdims=True)
        regret = np.where(asleep, 0.0, known - own)
        seen = np.bincount(row[~asleep.all(axis=1)], minlength=len(slots))[:, None]
        fresh = sum_rows(regret, row, len(slots))
        kept = (1.0 - self._forgotten) ** seen
        self._regret.values[slots] = kept * self._regret.values[slots] + fresh


def normal_weights(regret: Floats) -> Floats:
    """NormalHedge's weights (n, experts) of regrets (n, experts)."""
    half = np.maximum(regret, 0.0) ** 2 / 2.0
    most = half.max(axis=1, keepdims=True)
    # c lies between the values where the largest term alone is e x experts, and where it is e.
    low, high = most / (1.0 + np.log(regret.shape[1])), most
    with np.errstate(invalid="ignore"):
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            above = np.exp(half / middle).mean(axis=1, keepdims=True) > np.e
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        weight = np.maximum(regret, 0.0) * np.exp(half / high)
        weight /= weight.sum(axis=1, keepdims=True)
    return np.where(most > 0.0, weight, 1.0 / regret.shape[1])
