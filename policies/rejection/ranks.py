"""Who is best in each group, and who may go without leaving too few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.policies.rejection.base import Bools, Floats, Groups

Counts = NDArray[np.int64]


def ranks(score: Floats) -> Counts:
    """Place (G, N) of each score among its group's, 0 the best; NaN last, earlier ones of ties."""
    order = np.argsort(-score, axis=1, kind="stable")
    return np.argsort(order, axis=1)


def lowest(score: Floats, number: Counts) -> Bools:
    """The so many (G,) lowest of each group's scores (G, N); who has none is never among them."""
    known = ~np.isnan(score)
    low: Bools = known & (ranks(score) >= (known.sum(axis=1) - number)[:, None])
    return low


def spare(groups: Groups) -> Counts:
    """How many (G,) members can be stopped with as many left as win; never all of them."""
    standing = (groups.present & ~groups.stopped).sum(axis=1)
    number: Counts = np.maximum(standing - groups.keep, 0)
    return number
