"""Which settings are sure enough, of what, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.policies.throttle.acquisition import log_gain
from flyball.policies.throttle.space import Bools, Floats

FAR_OVER = 1.25  # of the SLO: what no trial is to exceed
_SURE = 3.1  # deviations: 99.9%
_CAUTION = 0.5  # deviations of cost that what stays in force is charged with
STEP = 1.1
_LOAD_SURE = 2.5  # deviations: far over the SLO is what too much load ends in

Believed = Sequence[tuple[float, Floats, Floats]]


@dataclass(frozen=True)
class Judged:
    """What is believed of settings (S,).

    Attributes:
        believed: by kind of host: how probable, means and deviations (outputs, S).
        keeps: sure enough to stay in force.
        allowed: sure enough to be tried.
        unsure: (limits, S) which limits keep it from being tried.
        likely: keeps every limit, by its mean.
        cost: log of what is minimised, charged with doubt.
    """

    believed: Believed
    keeps: Bools
    allowed: Bools
    unsure: Bools
    likely: Bools
    cost: Floats

    def gain(self, measured: Bools, limits: Floats) -> Floats:
        """Log of what settings (S,) are expected to gain over the best of those measured."""
        feasible = measured & (self.keeps | self.likely)
        found = [
            np.log(weight) + log_gain(mean, deviation, float(mean[0][feasible].min()), limits)
            for weight, mean, deviation in self.believed
        ]
        gain: Floats = np.logaddexp.reduce(found)
        return np.where(measured, -np.inf, gain)


def judge(
    believed: Believed, limits: Floats, sure: Bools, calm: Floats, stays: float, tries: float
) -> Judged:
    """Judge settings (S,), the safe one last.

    How busy the machine is, the last of the limits, may stay unsure for long. Settings that were
    calm, or a clock step of a tenth slower, are not held back by it.

    Args:
        believed: of them.
        limits: (K,).
        sure: those that physics certifies; it counts where the mean agrees, as acceptance drifts.
        calm: by how much they can be slower than one that was measured to keep all limits.
        stays: deviations by which what stays in force keeps the limits.
        tries: deviations by which a trial does.
    """
    num = len(sure)
    keeps, likely = np.ones(num, np.bool_), np.ones(num, np.bool_)
    unsure, cost = np.zeros((len(limits), num), np.bool_), np.zeros(num)
    for weight, mean, deviation in believed:
        slack, doubt = limits[:, None] - mean[1:], deviation[1:]
        stay = slack >= stays * doubt
        stay[-1] |= calm <= 1.0
        keeps &= stay.all(axis=0)
        enough = slack >= tries * doubt
        enough &= slack + np.log(FAR_OVER) >= _SURE * doubt
        enough[-1] = (slack[-1] >= _LOAD_SURE * doubt[-1]) | (calm <= STEP)
        unsure |= ~enough
        likely &= (slack >= 0.0).all(axis=0)
        cost += weight * (mean[0] + _CAUTION * deviation[0])
    sure = sure & likely
    keeps, unsure = keeps | sure, unsure & ~sure
    keeps[-1], unsure[:, -1] = True, False  # the safe setting: nothing is known to be better
    allowed: Bools = ~np.any(unsure, axis=0)
    return Judged(believed, keeps, allowed, unsure, likely, cost)
