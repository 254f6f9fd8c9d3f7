"""What a partial score tells of the final one, and who may still end above whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

_COUNT, _X, _Y, _XX, _XY, _YY = range(6)
_LEAST_PAIRS = 8.0  # below this many candidates a checkpoint tells nothing
_LEAST_SHARE = 1e-6  # of the variance of final scores that is always left to chance
_LEAST_VARIANCE = 1e-12  # where all final scores of a group were the same


class PartialReward:
    """Online regression of final scores on partial ones, for every checkpoint.

    Within a group, at a checkpoint c,

        final_i - mean(final) = slope_c (partial_i - mean(partial)) + noise,  variance_c,

    so what makes a whole group hard or easy plays no part. Only groups that ran to completion may
    be learned from: survivors of a selection by partial scores would show too little noise. Old
    groups fade with `memory` groups.

    If a score were a sum of independent equal parts over L tokens, the correlation after tau of
    them would be sqrt(tau / L) (Early Rejection with Partial Reward Models, arXiv 2508.01969,
    section 4); `correlation` is the measured curve.

    Args:
        num_checks: C, checkpoints.
        memory: groups after which one weighs 1/e.
    """

    def __init__(self, num_checks: int, memory: float = 2000.0) -> None:
        self._kept = np.exp(-1.0 / memory)
        self._sums: Floats = np.zeros((6, num_checks))

    def learn(self, score: Floats, final: Floats) -> None:
        """Take in completed groups: score (G, N, C), final (G, N); NaN where unknown."""
        both = ~np.isnan(score) & ~np.isnan(final)[:, :, None]
        count = both.sum(axis=1, keepdims=True)  # (G, 1, C)
        x = np.where(both, score, 0.0)
        y = np.where(both, np.where(np.isnan(final), 0.0, final)[:, :, None], 0.0)
        share = 1.0 / np.maximum(count, 1)
        x = np.where(both, x - x.sum(axis=1, keepdims=True) * share, 0.0)
        y = np.where(both, y - y.sum(axis=1, keepdims=True) * share, 0.0)
        free = np.maximum(count[:, 0] - 1, 0).sum(axis=0)  # a group's mean takes one away
        self._sums *= self._kept ** len(score)
        self._sums[_COUNT] += free
        for place, values in ((_XX, x * x), (_XY, x * y), (_YY, y * y)):
            self._sums[place] += values.sum(axis=(0, 1))

    @property
    def slope(self) -> Floats:
        """Slope (C,) of final on partial scores, never negative; 0 where too little is known."""
        sums = self._sums
        slope = np.maximum(sums[_XY], 0.0) / np.where(sums[_XX] > 0.0, sums[_XX], 1.0)
        return np.where(sums[_COUNT] >= _LEAST_PAIRS, slope, 0.0)

    @property
    def variance(self) -> Floats:
        """Variance (C,) of final scores around their prediction; infinite where unknown."""
        sums = self._sums
        count = np.maximum(sums[_COUNT], 1.0)
        left = sums[_YY] - self.slope * (2.0 * sums[_XY] - self.slope * sums[_XX])
        variance = np.maximum(left, _LEAST_SHARE * sums[_YY] + _LEAST_VARIANCE) / count
        return np.where(sums[_COUNT] >= _LEAST_PAIRS, variance, np.inf)

    @property
    def correlation(self) -> Floats:
        """Correlation (C,) of partial and final scores within groups; NaN where unknown."""
        sums = self._sums
        product = sums[_XX] * sums[_YY]
        known = (sums[_COUNT] >= _LEAST_PAIRS) & (product > 0.0)
        return np.where(known, sums[_XY] / np.sqrt(np.where(known, product, 1.0)), np.nan)

    def surprise(
        self, own: Floats, rivals: Floats, sooner: Bools, check: Ints, tie: float
    ) -> Floats:
        """Surprise, in nats, if candidates ended above rivals that are ahead of them.

        With finals foreseen as independent normal variables, candidate i ends above j by more than
        a tie with probability Phi((slope (x_i - x_j) - tie) / sqrt(2 variance)); the surprise is
        -log of it. Summed over rivals it is no probability, for candidates are not independent,
        but an order: far behind, late, and behind many all count.

        Args:
            own: (B,) score of each candidate at its checkpoint; NaN where unknown.
            rivals: (B, N) scores of its group's members there, its own too; NaN where unknown.
            sooner: (B, N) which rivals are ahead where scores are equal.
            check: (B,) the checkpoint.
            tie: finals that differ by no more count as equal.

        Returns:
            (B, N) at least 0; 0 for those that are behind or unknown.
        """
        variance = self.variance[check][:, None]
        with np.errstate(invalid="ignore"):
            gap = self.slope[check][:, None] * (rivals - own[:, None])
            ahead = (gap > 0.0) | ((gap == 0.0) & sooner)
            ahead &= np.isfinite(variance)
            return np.where(ahead, -log_ndtr(-(gap + tie) / np.sqrt(2.0 * variance)), 0.0)
