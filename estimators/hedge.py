"""Which of several experts does best, when the loss of each is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class FixedShare:
    """Hedge with fixed share over experts whose losses are all seen.

        w[j] <- w[j] exp(-rate x exposure x loss[j]),   w <- (1 - share) w + share x prior

    Fixed share (Herbster and Warmuth 1998) follows the best sequence of experts: after a change
    the new best one starts from a share of the weight, not from next to nothing. Experts whose
    loss is not known this time sleep (Freund et al. 1997): those awake share their own weight
    anew.

    Args:
        prior: (experts,) weight of each at first, and of what is shared.
        rate: of learning, per unit of exposure.
        share: of the weight that is shared anew in a unit of exposure.

    Attributes:
        weight: (experts,) of each, sum 1.
    """

    def __init__(self, prior: Floats, rate: float, share: float) -> None:
        self._prior = prior / prior.sum()
        self._rate = rate
        self._share = share
        self.weight: Floats = self._prior.copy()

    def update(self, loss: Floats, exposure: float) -> None:
        """Learn the losses (experts,), NaN where unknown, over so much exposure."""
        awake = loss == loss
        if not awake.any():
            return
        before = self.weight[awake]
        gain = -self._rate * exposure * loss[awake]
        after = before * np.exp(gain - gain.max())
        self.weight[awake] = after * (before.sum() / after.sum())
        kept = (1.0 - self._share) ** exposure
        self.weight = kept * self.weight + (1.0 - kept) * self._prior
