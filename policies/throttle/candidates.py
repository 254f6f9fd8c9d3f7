"""Which settings of a large grid are worth a closer look."""

from __future__ import annotations

import numpy as np

from flyball.policies.throttle.space import Bools, Floats, Places, Space

_NEAR = 0.3  # of limits' logarithms, beyond which a setting is no candidate
_CHEAPEST, _OTHERS = 300, 300  # candidates of either kind


def candidates(space: Space, guess: Floats, limits: Floats, sure: Bools, known: Places) -> Places:
    """Rows of the grid: what was measured, what is promising, and the safe setting, last.

    What breaks a limit clearly by physics' own means is left out; of the rest the cheapest stay,
    and every so-manieth of the others.

    Args:
        space: of them.
        guess: (outputs, grid) means by physics alone.
        limits: (outputs - 1,).
        sure: (grid,) known to be as good as certain; looked at in any case.
        known: (n,) rows that were measured.
    """
    near = np.all(guess[1:] <= limits[:, None] + _NEAR, axis=0)
    rows = np.concatenate([_thinned(guess[0], some) for some in (near, sure)])
    last = space.index(space.safe)
    return np.append(np.setdiff1d(np.union1d(rows, known), last), last)


def _thinned(cost: Floats, some: Bools) -> Places:
    """Rows of the cheapest of some (S,) and, evenly by their cost, of others."""
    order = np.flatnonzero(some)[np.argsort(cost[some], kind="stable")]
    rest = order[_CHEAPEST:]
    return np.concatenate([order[:_CHEAPEST], rest[:: max(len(rest) // _OTHERS, 1)]])
