"""The least threshold under which losses stay below a risk: conformal prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def risk_threshold(scores: Floats, risk: float) -> float:
    """The least threshold q with (number of scores above q + 1) / (n + 1) <= risk.

    For a new score, exchangeable with these, the probability to exceed the threshold is at most
    `risk` (split conformal prediction; Vovk, Gammerman and Shafer 2005, section 2.2).

    Args:
        scores: (n,) of calibration.
        risk: above 0.

    Returns:
        The threshold; infinite while scores are too few for any promise.
    """
    allowed = int(np.floor(risk * (len(scores) + 1) - 1.0 + 1e-9))  # scores that may lie above
    if allowed < 0:
        return float("inf")
    if allowed >= len(scores):
        return -float("inf")
    return float(np.sort(scores)[len(scores) - 1 - allowed])
