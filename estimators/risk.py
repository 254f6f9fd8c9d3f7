"""The largest threshold under which losses stay below a risk: conformal risk control."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def risk_threshold(scores: Floats, share: Floats, num_groups: int, risk: float) -> float:
    """The least threshold q with (sum of shares of scores above q + 1) / (num_groups + 1) <= risk.

    A group's loss, the share of its winners whose score exceeds the threshold, falls as the
    threshold rises and is at most 1; so for a new group, exchangeable with these, the mean loss is
    at most `risk` (conformal risk control, arXiv 2208.02814, theorem 1; with one winner a group it
    is split conformal prediction).

    Args:
        scores: (W,) of the winners of all groups.
        share: (W,) of its group's loss that each stands for; a group's sum to 1.
        num_groups: that they come from.
        risk: above 0.

    Returns:
        The threshold; infinite while groups are too few for any promise.
    """
    room = risk * (num_groups + 1) - 1.0
    if room < 0.0:
        return float("inf")
    order = np.argsort(-scores)
    above = np.cumsum(share[order])
    spent = int(np.searchsorted(above, room + 1e-9, side="right"))  # winners that may be lost
    if spent == len(scores):
        return 0.0
    return float(scores[order[spent]])
