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


def place_surprise(
    pairs: Floats, twins: Bools, rivals: Floats, alive: Floats, keep: Ints, alone: Floats
) -> Floats:
    """Surprise, in nats, if candidates took a place that nobody else takes.

    To win a single place a candidate has to end above all that are ahead of it: these surprises
    are summed, for far behind, and behind many, both count. To be among the `keep` best of several
    it has to end above the one that is now the last of them, and only that surprise is counted:
    who score alike often say the same, so many of them are no more than one. But that so many fail
    is a surprise of its own, and measured: on whoever says the same as they do, and whoever is
    behind is no better off. Likewise nobody misses who says what others say that go on, unless it
    ends above all of these. The largest of the three surprises is the candidate's.

    Args:
        pairs: (G, M, N) surprise to end above each rival, `PartialReward.surprise`.
        twins: (G, M, N) rivals that say the same so far, and come sooner.
        rivals: (G, N) scores; NaN where unknown.
        alive: (G, N, T) 1 for rivals that go on or have ended.
        keep: (G,) places.
        alone: (G, K + 1) surprise to end above so many twins, K for more.

    Returns:
        (G, M, T).
    """
    found: Floats = pairs @ alive
    several = np.flatnonzero(keep > 1)
    if len(several):
        pairs, alive = pairs[several], alive[several]
        best = np.argsort(-rivals[several], axis=1, kind="stable")
        there = np.take_along_axis(alive, best[:, :, None], axis=1)
        taken = np.cumsum(there, axis=1) >= keep[several, None, None]
        last = np.take_along_axis(best, taken.argmax(axis=1), axis=1)  # (several, T)
        above = np.take_along_axis(pairs, last[:, None, :], axis=2)
        beyond = (pairs > 0.0) @ alive - (keep[several, None, None] - 1)
        count = np.clip(np.maximum(twins[several] @ alive, beyond), 0, alone.shape[1] - 1)
        many = np.take_along_axis(alone[several, None, :], count.astype(np.intp), axis=2)
        found[several] = np.maximum(np.where(taken[:, -1:], above, 0.0), many)
    return found
