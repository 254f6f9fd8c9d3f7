"""How long to remember a request: several memories, weighted by what they foretold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]

_ROUNDS = (40.0, 10.0, 3.0)
_PRIOR = (0.6, 0.25, 0.15)
_SHARED = 0.02  # of the weight is shared anew with every learning


class Memories:
    """Weights of records of each request that differ in how fast they fade.

    How fast requests change differs between texts. The weight of a memory is the likelihood of
    what it foretold, with fixed share between them (Herbster and Warmuth 1998).

    Args:
        rounds: (memories,) after which a record has lost 1 - 1/e of its weight.
        prior: (memories,) weight of each at first, and of what is shared anew.
    """

    def __init__(
        self, rounds: tuple[float, ...] = _ROUNDS, prior: tuple[float, ...] = _PRIOR
    ) -> None:
        self._keep = np.exp(-1.0 / np.array(rounds))
        self._prior = np.array(prior)
        self.weight = SlotArray(self._prior, shape=self._prior.shape)

    def record(self, fill: float = 0.0) -> SlotArray:
        """A number for each request and memory (slots, memories)."""
        return SlotArray(fill, shape=self._prior.shape)

    def keep(self, seen: Slots) -> Floats:
        """What is kept of each record (slots, memories) of requests that were seen (r,)."""
        num_rounds = np.bincount(seen, minlength=len(self.weight.values))
        result: Floats = self._keep ** num_rounds[:, None]
        return result

    def mean(self, values: Floats) -> Floats:
        """Mean (slots,) of what the memories say (slots, memories)."""
        result: Floats = np.einsum("sm,sm->s", self.weight.values, values)
        return result

    def weigh(self, log_likelihood: Floats) -> None:
        """Learn how well each memory foretold what was seen (slots, memories)."""
        weight = self.weight.values
        weight *= np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        weight *= (1.0 - _SHARED) / weight.sum(axis=1, keepdims=True)
        weight += _SHARED * self._prior
