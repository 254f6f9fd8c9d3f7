"""At which of several levels each request is: a filter for what jumps, now and then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]

_JUMP = 0.01  # probability that a request jumps in a round
_PRIOR_SHARE = 0.05  # of the prior in what new requests are believed to be
_MEMORY = 2000.0  # observed rounds after which the population has lost 1 - 1/e of its weight


class Levels:
    """Probability of each level for each request.

    A request stays at its level, or jumps, with a small probability a round, to one drawn from
    the population of all requests: the forward filter of a hidden Markov model, which is hedge
    with fixed share over the levels (Herbster and Warmuth 1998). It settles where nothing
    changes, and leaves within a few tokens where something does. The population is learned from
    the requests themselves, so that a new one starts from what is usual.

    Args:
        prior: (levels,) believed of the population before any outcome.

    Attributes:
        weight: (slots, levels) probabilities.
    """

    def __init__(self, prior: Floats) -> None:
        self._prior = prior / prior.sum()
        self._population = self._prior.copy()
        self.weight = SlotArray(self._prior, shape=prior.shape)

    def admit(self, slots: Slots) -> None:
        """New requests take these slots (n,)."""
        self.weight.fill = self._usual
        self.weight.reset(slots)

    @property
    def _usual(self) -> Floats:
        result: Floats = _PRIOR_SHARE * self._prior + (1.0 - _PRIOR_SHARE) * self._population
        return result

    def update(self, log_likelihood: Floats, seen: Slots) -> None:
        """Learn from the likelihood (slots, levels) of what requests (r,) showed, a round each.

        Slots beyond those of the likelihood showed nothing.
        """
        weight = self.weight.values[: len(log_likelihood)]
        num_rounds = np.bincount(seen, minlength=len(weight))
        stays = ((1.0 - _JUMP) ** num_rounds)[:, None]
        weight *= stays
        weight += (1.0 - stays) * self._usual
        weight *= np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        if len(seen):
            kept = np.exp(-len(seen) / _MEMORY)
            self._population *= kept
            self._population += (1.0 - kept) / len(seen) * (num_rounds @ weight)
