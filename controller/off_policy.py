"""What a policy would have brought, from rounds that another one drew at random.

Contextual-bandit estimates: what is estimated is the mean over the logged rounds of what the
policy would have brought in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

LEAST_DRAWS = 20.0  # effective ones, below which nothing is said
_COVERAGE = 0.95


@dataclass(frozen=True)
class Logged:
    """Rounds as they were logged.

    Attributes:
        request: (n,) of each round.
        step: (n,) of each round; what was done is drawn once for all requests of a step.
        reward: (n,) what the round brought.
        propensity: (n,) probability with which what was done was drawn, above 0.
        chance: (n,) probability with which the policy in question would have done the same.
        modelled: (n,) what a model says that this would bring.
        modelled_policy: (n,) what it says that the policy in question would bring.
    """

    request: Longs
    step: Longs
    reward: Floats
    propensity: Floats
    chance: Floats
    modelled: Floats
    modelled_policy: Floats

    @property
    def weight(self) -> Floats:
        """(n,) of the importance weighting."""
        result: Floats = self.chance / self.propensity
        return result

    @property
    def effective_draws(self) -> float:
        """Draws that an unweighted mean as precise would need (Kish 1965)."""
        _, member = np.unique(self.step, return_inverse=True)
        weight = np.bincount(member, self.weight)
        total = float(weight.sum())
        return total**2 / float(weight @ weight) if total > 0.0 else 0.0


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float


def ips(logged: Logged) -> Estimate:
    """Inverse propensity (Horvitz and Thompson 1952): unbiased, wide where weights are."""
    return _mean(logged.weight * logged.reward, np.ones(len(logged.reward)), logged)


def snips(logged: Logged) -> Estimate:
    """Self-normalised (Swaminathan and Joachims 2015): a ratio, much narrower, little biased."""
    return _mean(logged.weight * logged.reward, logged.weight, logged)


def doubly_robust(logged: Logged) -> Estimate:
    """A model, corrected by what it missed (Dudik et al. 2011): right if either is."""
    missed = logged.weight * (logged.reward - logged.modelled)
    ones = np.ones(len(logged.reward))
    return _mean(logged.modelled_policy + missed, ones, logged)


def _mean(total: Floats, weight: Floats, logged: Logged) -> Estimate:
    """sum(total) / sum(weight), with the interval of a ratio of sums.

    Rounds of a request hang together, and so do rounds of a step: clusters of both kinds count,
    less what is counted twice (Cameron, Gelbach and Miller 2011).
    """
    value = float(total.sum() / weight.sum())
    residual = total - value * weight
    counts, squares = zip(
        *(_clusters(residual, of) for of in (logged.request, logged.step)), strict=True
    )
    if min(counts) < 2:
        return Estimate(value, -np.inf, np.inf)
    variance = max(sum(squares) - float(residual @ residual), *squares)
    spread = np.sqrt(variance) / weight.sum()
    reach = float(stdtrit(min(counts) - 1, 0.5 + _COVERAGE / 2.0)) * float(spread)
    return Estimate(value, value - reach, value + reach)


def _clusters(residual: Floats, of: Longs) -> tuple[int, float]:
    """How many clusters there are, and the sum of their squares, for so few of them."""
    _, member = np.unique(of, return_inverse=True)
    sums = np.bincount(member, residual)
    count = len(sums)
    return count, float(sums @ sums) * count / max(1, count - 1)
