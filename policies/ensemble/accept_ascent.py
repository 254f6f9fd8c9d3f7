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

# By simulation: drafts of different worth, some of them alike, at m = 2 to 4; after a switch of
# the best draft the acceptance is within 5% of the best fixed mixture's in 48 positions. The slow
# rate alone loses 2% of the rounds of the vision-language demo's traffic, the fast one alone up to
# a tenth where a mixture is best.
_RATES, _SHARE = (1.0, 5.0), 0.001
_CHOICE_RATE, _CHOICE_SHARE = 5.0, 0.01  # between the two
_GRID_RATE, _GRID_SHARE = 1.2, 0.002
# Less, and a new request inherits what one text was like; ten times more, and the requests after a
# switch of traffic lose up to 4% of their first 24 positions.
_MEMORY = 200.0
_MEMBERS_PRIOR = 0.8  # weight of the members alone at first, in the grid


class AcceptAscentSettings(EnsembleSettings):
    """Settings of the accept_ascent policy."""

    policy: Literal["accept_ascent"] = "accept_ascent"


class AcceptAscent(EnsemblePolicy):
    """Climbs the expected acceptance of the mixture, text by text.

    Sampling: the expected acceptance of a position, f(w) = sum_x min(p(x), sum_j w_j q_j(x)), is
    concave in w. Exponentiated-gradient ascent with fixed share on its supergradient g, which lies
    in [0, 1] (`flyball.kernels.mix.ascent`; Kivinen and Warmuth 1997, Herbster and Warmuth 1998):

        w_j <- w_j exp(rate x g_j) / Z,   w <- (1 - share) w + share / m   once a position

    Bounded: the acceptance summed over the observed positions falls short of that of any fixed
    mixture, over any stretch, by a constant that grows with ln(m / share) / rate, and by a share
    of the positions that grows with rate x (positions a round). Not bounded: the run length, a
    product of acceptances that depend on each other; of two mixtures with equal acceptance a
    position, the one whose failures cluster has the longer runs.

    Greedy decoding: acceptance is a step function of w without a slope, so fixed-share Hedge
    weighs the vectors of TABED's grid (arXiv 2601.20357) by their hits. A vector drawn by these
    weights would have the same bound for its hits, with ln G for ln m; the mean of the grid by
    weight is played instead, which has none, as hits are not concave. In simulation the mean hits
    1 to 2% more often than a draw or the leader where members err apart, and no less than a draw
    where they err together: the weights of one hit are a convex region, vectors tie in their
    dozens, and their mean lies in the middle of the region that they share. Most of the prior is
    on the members alone, or the mean would hardly come near the corner where one member is best.

    Two rates climb side by side, and Hedge over what their weights would have gained along the
    slope mixes them, as MetaGrad does (van Erven and Koolen 2016, arXiv 1604.08740): the slow one
    settles in a mixture without noise, the fast one finds a member that is best alone.

    Requests start from a running mean of all requests' weights.
    """

    Settings = AcceptAscentSettings

    def __init__(
        self, settings: AcceptAscentSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        self._climbers = [
            SlotHedge(np.ones(num_members), rate, _SHARE, _MEMORY) for rate in _RATES
        ]
        self._choice = SlotHedge(np.ones(len(_RATES)), _CHOICE_RATE, _CHOICE_SHARE, _MEMORY)
        prior = np.full(len(self.grid), (1.0 - _MEMBERS_PRIOR) / len(self.grid))
        prior[self.grid.max(axis=1) == 1.0] += _MEMBERS_PRIOR / num_members
        self._points = SlotHedge(prior, _GRID_RATE, _GRID_SHARE, _MEMORY)

    def evidence(self, sampled: bool) -> Evidence:
        """The supergradient, or the hits of the grid."""
        return "ascent" if sampled else "grid"

    def admit(self, slots: Ints) -> None:
        """Start new requests from what all requests learned."""
        for part in (*self._climbers, self._choice, self._points):
            part.reset(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """The weights reached so far, or the mean of the grid by weight."""
        if sampled:
            climbed = np.stack([climber.weight(slots) for climber in self._climbers], axis=1)
            mixed: Floats = np.einsum("nk,nkm->nm", self._choice.weight(slots), climbed)
            mixed /= mixed.sum(axis=1, keepdims=True)
            return mixed
        return self._points.weight(slots) @ self.grid

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Climb by the supergradients (N, m), or weigh the grid by its hits (N, G, 2)."""
        if sampled:
            # Who sleeps gains nothing for either; where all do, nothing is known.
            gains = [
                np.where(np.isnan(values), 0.0, values * climber.weight(slots)[row]).sum(axis=1)
                for climber in self._climbers
            ]
            gain = np.stack(gains, axis=1)
            gain[np.isnan(values).all(axis=1)] = np.nan
            self._choice.learn(slots, row, gain)
            for climber in self._climbers:
                climber.learn(slots, row, values)
        else:
            self._points.learn(slots, row, values[..., 0])
