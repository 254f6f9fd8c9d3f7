"""The chance of a completion to end well, told from its partial score alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_CAPACITY = 2048  # completions
_STEPS = 12  # of Newton's method
_RIDGE = 1.0  # on the slope, in units of a score's standard deviation
_LEAST_PAIRS = 8  # below this many completions a checkpoint tells only how many end well


class Prospects:
    """Completions that ran to their end, and how a partial score foretells a good one.

    At a checkpoint c, over completions of all groups,

        P(final >= worth) = expit(a_c + b_c partial),  b_c >= 0,

    fitted to 0 and 1 moved inwards, as if one more of either had been seen: Platt's scaling (Platt
    1999, "Probabilistic outputs for support vector machines"), which keeps probabilities
    calibrated and away from 0 and 1. What makes a whole group hard counts here, unlike in
    `PartialReward`. A completion's surprise is the largest -log P over the checkpoints that it
    passed.

    Args:
        checks: (C,) tokens at the checkpoints.
        worth: final scores that count as good.
    """

    def __init__(self, checks: NDArray[np.int64], worth: float) -> None:
        self._checks = checks
        self._worth = worth
        self._score: Floats = np.zeros((0, len(checks)))  # of a completion a row
        self._final: Floats = np.zeros(0)
        self._tokens: Floats = np.zeros(0)
        self._group: NDArray[np.int64] = np.zeros(0, np.int64)
        self._num_groups = 0
        self._intercept: Floats = np.zeros(len(checks))
        self._slope: Floats = np.zeros(len(checks))

    def add(self, score: Floats, final: Floats, num_tokens: Ints) -> None:
        """Take in groups that ended: score (G, N, C), final and num_tokens (G, N); NaN unknown."""
        group, member = np.nonzero(~np.isnan(final))
        self._score = np.concatenate([self._score, score[group, member]])[-_CAPACITY:]
        self._final = np.concatenate([self._final, final[group, member]])[-_CAPACITY:]
        self._tokens = np.concatenate([self._tokens, num_tokens[group, member]])[-_CAPACITY:]
        self._group = np.concatenate([self._group, self._num_groups + group])[-_CAPACITY:]
        self._num_groups += len(final)

    def fit(self) -> None:
        """Fit intercepts and slopes to what is kept."""
        self._intercept, self._slope = platt(self._score, self._final >= self._worth)

    def surprise(self, own: Floats, check: NDArray[np.integer]) -> Floats:
        """-log P(final >= worth) (B,) of scores (B,) at checkpoints (B,); 0 where unknown."""
        chance = expit(self._intercept[check] + self._slope[check] * own)
        surprise: Floats = np.where(np.isnan(own), 0.0, -np.log(chance))
        return surprise

    def worthy(self) -> tuple[Floats, Floats, int]:
        """Surprises (W,) of those that ended well, each one's share of its group's, and groups."""
        row = np.flatnonzero(self._final >= self._worth)
        check = np.broadcast_to(np.arange(len(self._checks)), (len(row), len(self._checks)))
        surprise = self.surprise(self._score[row], check).max(axis=1)
        _, place, count = np.unique(self._group[row], return_inverse=True, return_counts=True)
        return surprise, 1.0 / count[place], len(count)

    def tokens_left(self) -> Floats:
        """Mean tokens (C,) that those which passed a checkpoint still had before them."""
        left = self._tokens[:, None] - self._checks
        longer = left > 0.0
        mean: Floats = np.where(longer, left, 0.0).sum(axis=0) / np.maximum(longer.sum(axis=0), 1)
        return mean


def platt(score: Floats, good: Bools) -> tuple[Floats, Floats]:
    """Intercepts and slopes (C,) of logistic regressions of good (M,) on scores (M, C).

    NaN scores take no part. Newton's method from the base rate, on standardised scores, with a
    ridge on the slope; a slope that would fall below 0 is 0.
    """
    known = ~np.isnan(score)
    count = known.sum(axis=0)
    num_good = (known & good[:, None]).sum(axis=0)
    base = logit((num_good + 1.0) / (count + 2.0))
    low, high = 1.0 / (count - num_good + 2.0), (num_good + 1.0) / (num_good + 2.0)
    target = np.where(good[:, None], high, low)
    x = np.where(known, score, 0.0)
    mean = x.sum(axis=0) / np.maximum(count, 1)
    x = np.where(known, x - mean, 0.0)
    scale = np.sqrt((x * x).sum(axis=0) / np.maximum(count, 1))
    scale = np.where(scale > 0.0, scale, 1.0)
    x = x / scale
    a, b = base.copy(), np.zeros(len(base))
    for _ in range(_STEPS):
        p = expit(a + b * x)
        miss, weight = known * (target - p), known * p * (1.0 - p)
        to_a, to_b = miss.sum(axis=0), (miss * x).sum(axis=0) - _RIDGE * b
        aa, ab = weight.sum(axis=0) + 1e-9, (weight * x).sum(axis=0)
        bb = (weight * x * x).sum(axis=0) + _RIDGE
        over = aa * bb - ab * ab
        a, b = a + (bb * to_a - ab * to_b) / over, b + (aa * to_b - ab * to_a) / over
    told = (b > 0.0) & (count >= _LEAST_PAIRS) & np.isfinite(a + b)
    slope = np.where(told, b, 0.0) / scale
    return np.where(told, a, base) - slope * mean, slope
