"""How far trials may go from what is known to keep the promises."""

from __future__ import annotations

import numpy as np

from flyball.policies.throttle.certified import slowdown
from flyball.policies.throttle.space import Bools, Places, Space

_FIRST, _LEAST, _MOST = np.log(2.0), np.log(1.1), np.log(64.0)
_GROWS, _SHRINKS = 1.25, 0.5


class TrustRegion:
    """Clocks may fall so far, and no farther, below those of some setting that kept all limits.

    The first window says how long a round takes, and next to nothing of what it is made of: at a
    fifth of the CPU's clock latency was 2.5 times what was believed, four deviations off. A
    window that keeps the limits makes the region wider by a quarter in logarithms, one that breaks
    them halves it.

    Attributes:
        radius: largest logarithm of a clock over that of the setting next to it.
    """

    def __init__(self) -> None:
        self.radius = float(_FIRST)

    def note(self, kept: bool) -> None:
        """Take in whether a window kept the limits."""
        factor = _GROWS if kept else _SHRINKS
        self.radius = float(np.clip(self.radius * factor, _LEAST, _MOST))

    def holds(self, space: Space, settings: Places, kept: Places) -> Bools:
        """Which settings (S, knobs) it holds, around those (n, knobs) that kept the limits."""
        if len(kept) == 0:
            kept = space.safe[None]
        found: Bools = np.log(slowdown(space, settings, kept, alike=False)) <= self.radius + 1e-9
        return found
