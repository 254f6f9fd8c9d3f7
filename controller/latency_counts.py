"""How often tokens took how long, in constant memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHORTEST_S, LONGEST_S = 1e-6, 1e3
RESOLUTION = 0.01
_STEP = np.log1p(RESOLUTION)
_NUM_BINS = int(np.ceil(np.log(LONGEST_S / SHORTEST_S) / _STEP)) + 1


class LatencyCounts:
    """Counts of latencies in bins that are 1% wide, from a microsecond to a quarter of an hour."""

    def __init__(self) -> None:
        self._counts = np.zeros(_NUM_BINS)

    def add(self, latencies_s: Floats, num_tokens: Floats | float = 1.0) -> None:
        """Count tokens (n,) by the seconds (n,) that each took; those beyond an end, at the end.

        Args:
            latencies_s: seconds a token.
            num_tokens: how many took so long each.
        """
        clipped = np.clip(latencies_s, SHORTEST_S, LONGEST_S)
        bins = np.ceil(np.log(clipped / SHORTEST_S) / _STEP - 1e-9).astype(np.intp)
        np.add.at(self._counts, bins, num_tokens)

    def quantile(self, share: float) -> float:
        """Seconds that this share of the tokens took at most; up to 1% above, never below.

        NaN where none was counted.
        """
        total = np.cumsum(self._counts)
        if not total[-1]:
            return float("nan")
        place = int(np.searchsorted(total, share * total[-1] * (1 - 1e-12)))
        return float(SHORTEST_S * np.exp(place * _STEP))
