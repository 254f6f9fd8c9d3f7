"""How many tokens a draft turns out to have, where that is known only once it is made."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_KEEP = math.exp(-1.0 / 2000.0)  # of a draft's weight, from one draft to the next


class FillEstimator:
    """Probability that a draft has at least so many tokens.

    N-gram lookup often finds nothing, or less than was planned. A draft that was planned shorter
    than what there was tells of its planned tokens alone, so this is the product-limit estimate
    (Kaplan and Meier 1958), with counts that fade.

    Args:
        max_draft_len: largest draft length in tokens.

    Attributes:
        share: (max_draft_len + 1,) of drafts that have so many tokens or more.
    """

    def __init__(self, max_draft_len: int) -> None:
        self.share: Floats = np.ones(max_draft_len + 1)
        self._found = np.zeros(max_draft_len)
        self._ended = np.zeros(max_draft_len)

    def forget(self) -> None:
        """Start anew."""
        self.share[:] = 1.0
        self._found[:] = self._ended[:] = 0.0

    def update(self, proposed: Ints, exhausted: Bools) -> None:
        """Learn from drafts.

        Args:
            proposed: (n,) tokens that each had, as far as they were planned.
            exhausted: (n,) whether it had no more, although more were planned.
        """
        size = len(self._found)
        ended = np.bincount(proposed[exhausted], minlength=size + 1)[:size]
        found = np.bincount(proposed, minlength=size + 1)[::-1].cumsum()[::-1][1:]
        keep = _KEEP ** len(proposed)
        self._found = keep * self._found + found
        self._ended = keep * self._ended + ended
        self.share[1:] = np.cumprod((1.0 + self._found) / (1.0 + self._found + self._ended))
