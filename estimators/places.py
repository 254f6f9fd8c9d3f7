"""Whether a candidate still takes one of the places that go on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

_ALIKE = 1e-4  # of a score; what rounding tells apart


def twins(own: Floats, rivals: Floats, sooner: Bools) -> Bools:
    """Which rivals (..., M, N) come sooner and score as own (..., M) does, so say the same so far.

    Args:
        own: (..., M) scores; NaN where unknown.
        rivals: (..., N) scores.
        sooner: (..., M, N) which rivals come first.
    """
    own, rivals = own[..., :, None], rivals[..., None, :]
    with np.errstate(invalid="ignore"):
        alike: Bools = np.abs(own - rivals) <= _ALIKE * (1.0 + np.abs(own))
    return alike & sooner


def split(first: Floats, present: Bools) -> Bools:
    """Groups (G,) whose members (G, N) do not all score alike at the first checkpoint.

    Nobody has been stopped there, so what is left of a group later says less of how hard it is.
    """
    score = np.where(present, first, 0.0)
    low = np.where(present, first, np.inf).min(axis=1)
    high = np.where(present, first, -np.inf).max(axis=1)
    with np.errstate(invalid="ignore"):
        alike: Bools = high - low <= _ALIKE * (1.0 + np.abs(high))
    unknown: Bools = np.isnan(score).any(axis=1)
    return unknown | ~alike


def place_surprise(
    pairs: Floats, twins: Bools, rivals: Floats, alive: Floats, keep: Ints, apart: Floats
) -> Floats:
    """Surprise, in nats, if candidates took a place that nobody else takes.

    To be among the `keep` best a candidate has to end above all that are ahead of it but for the
    keep - 1 best: the surprises of these are summed. Where several win, who says what others say
    is not missed either: the surprises that it still comes apart from each of them are summed, and
    the larger sum counts.

    Args:
        pairs: (G, M, N) surprise to end above each rival, `PartialReward.surprise`.
        twins: (G, M, N) rivals that say the same so far, and come sooner.
        rivals: (G, N) scores; NaN where unknown.
        alive: (G, N, T) 1 for rivals that go on or have ended.
        keep: (G,) places.
        apart: (G,) surprise if such a pair ends apart.

    Returns:
        (G, M, T).
    """
    best = np.argsort(-rivals, axis=1, kind="stable")
    there = np.take_along_axis(alive, best[:, :, None], axis=1)
    beyond = np.cumsum(there, axis=1) >= keep[:, None, None]
    found: Floats = np.take_along_axis(pairs, best[:, None, :], axis=2) @ (there * beyond)
    several = keep > 1
    if several.any():
        again = (twins[several] @ alive[several]) * apart[several, None, None]
        found[several] = np.maximum(found[several], again)
    return found
