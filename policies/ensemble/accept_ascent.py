"""Weights that climb the expected acceptance."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flyball.estimators.slot_hedge import SlotHedge
from flyball.policies.ensemble.base import (
    EnsemblePolicy,
    EnsembleSettings,
    Evidence,
    Floats,
    Ints,
    Rows,
)

_RATE, _SHARE = 0.8, 0.003  # sampling
_GRID_RATE, _GRID_SHARE = 0.3, 0.01  # greedy decoding
_MEMORY = 200.0


class AcceptAscentSettings(EnsembleSettings):
    """Settings of the accept_ascent policy."""

    policy: Literal["accept_ascent"] = "accept_ascent"


class AcceptAscent(EnsemblePolicy):
    """Climbs the expected acceptance of the mixture, text by text.

    Sampling: the expected acceptance of a position, f(w) = sum_x min(p(x), sum_j w_j q_j(x)), is
    concave in w; exponentiated-gradient ascent on its supergradient g (`kernels.mix.ascent`)

        w_j <- w_j exp(rate x g_j) / Z,   w <- (1 - share) w + share / m

    Greedy decoding: no gradient says where the mixture's argmax becomes the target's, so Hedge
    with fixed share weighs the vectors of `grid` by their hits, and the mean of the grid by these
    weights is played.
    """

    Settings = AcceptAscentSettings

    def __init__(
        self, settings: AcceptAscentSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        self._members = SlotHedge(num_members, _RATE, _SHARE, _MEMORY)
        self._points = SlotHedge(len(self.grid), _GRID_RATE, _GRID_SHARE, _MEMORY)

    def evidence(self, sampled: bool) -> Evidence:
        """The supergradient, or the hits of the grid."""
        return "ascent" if sampled else "grid"

    def admit(self, slots: Ints) -> None:
        """Start new requests from what all requests learned."""
        self._members.reset(slots)
        self._points.reset(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """The weights reached so far, or the mean of the grid by weight."""
        if sampled:
            return self._members.weight(slots)
        return self._points.weight(slots) @ self.grid

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Climb by the supergradients (N, m), or weigh the grid by its hits (N, G, 2)."""
        if sampled:
            self._members.learn(slots, row, values)
        else:
            self._points.learn(slots, row, values[..., 0])
