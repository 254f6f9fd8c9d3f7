"""Constants of decoding's physics, from few measurements and a prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.decode_asked import NAMES, PRIOR, Asked
from flyball.estimators.decode_physics import predict, slopes

Floats = NDArray[np.float64]

_MEAN = np.array([mean for mean, _ in PRIOR.values()])
_DEVIATION = np.array([deviation for _, deviation in PRIOR.values()])
_DRAFT = ("draft", "draft_launch")
_ROUNDS, _DAMPINGS = 12, 8
_FEW = 8  # measurements that do not yet tell one end from another
_ENOUGH = 1e-3  # relative fall of the errors below which a round was the last


class PhysicalFit:
    """Most probable constants of physics, and coefficients of what it does not know.

    Maximum a posteriori by Levenberg-Marquardt: normal errors of logarithms, the normal prior
    `PRIOR` of constants, coefficients of other features normal around 0. It begins where the last
    fit ended, and at the prior with time and power scaled to what was measured; the better end is
    taken.

    Args:
        example: (S,) settings and loads, of which it is seen what they can tell of.
        deviations: (F,) of the coefficients of features outside physics.
        outputs: that are measured, K of `OUTPUTS`.

    Attributes:
        z: (free constants + K x F,) in deviations from the prior's mean.
        errors: squares of what is left, in deviations, the prior's included.
    """

    def __init__(self, example: Asked, deviations: Floats, outputs: Sequence[str]) -> None:
        self._outputs = outputs
        self._chosen = _free_constants(example)
        self._coefficients = deviations
        self.z = np.zeros(len(self._chosen) + len(outputs) * len(deviations))
        self.errors = 0.0

    def _unpack(self, z: Floats) -> tuple[Floats, Floats]:
        """Constants (P,) and coefficients (K, F)."""
        num = len(self._chosen)
        constants = _MEAN.copy()
        constants[self._chosen] += _DEVIATION[self._chosen] * z[:num]
        return constants, z[num:].reshape(len(self._outputs), -1) * self._coefficients

    def predict(self, asked: Asked, extra: Floats) -> Floats:
        """Logarithms (K, S) of the outputs, extra (S, F) the features outside physics."""
        constants, coefficients = self._unpack(self.z)
        return predict(constants, asked, self._outputs) + coefficients @ extra.T

    def linear(self, asked: Asked, extra: Floats) -> tuple[Floats, Floats]:
        """The prior's mean (K, S) and features (K, S, Z), linearised at the fit.

        Features are slopes in z, so that z is standard normal a priori.
        """
        constants, coefficients = self._unpack(self.z)
        at, by_constants = slopes(constants, asked, self._chosen, self._outputs)
        features = self._features(by_constants, extra)
        return at + coefficients @ extra.T - features @ self.z, features

    def _features(self, by_constants: Floats, extra: Floats) -> Floats:
        num, width = len(self._chosen), len(self._coefficients)
        found = np.zeros((*by_constants.shape[:2], len(self.z)))
        found[:, :, :num] = by_constants * _DEVIATION[self._chosen]
        for output in range(len(self._outputs)):
            columns = slice(num + output * width, num + (output + 1) * width)
            found[output, :, columns] = extra * self._coefficients
        return found

    def fit(self, asked: Asked, extra: Floats, measured: Floats, variance: Floats) -> None:
        """Fit to what was measured.

        Args:
            asked: (S,).
            extra: (S, F).
            measured: (K, S) logarithms; NaN where unknown.
            variance: (K, S) of their errors, what physics leaves over included.
        """
        known = ~np.isnan(measured)
        weight = np.where(known, 1.0 / np.sqrt(variance), 0.0)
        goal = np.where(known, measured, 0.0)
        starts = [self.z] if self.z.any() else []
        if measured.shape[1] <= _FEW or not starts:
            starts.append(self._start(asked, goal, known))
        ends = [self._improve(start, asked, extra, goal, weight) for start in starts]
        self.z, self.errors = min(ends, key=lambda end: end[1])

    def _improve(
        self, z: Floats, asked: Asked, extra: Floats, goal: Floats, weight: Floats
    ) -> tuple[Floats, float]:
        """Where it ends from z on, and the errors' squares there."""

        def residuals(z: Floats) -> Floats:
            constants, coefficients = self._unpack(z)
            found = predict(constants, asked, self._outputs) + coefficients @ extra.T
            return np.concatenate([(weight * (found - goal)).ravel(), z])

        best, damping = residuals(z), 1e-2
        for _ in range(_ROUNDS):
            by_constants = slopes(self._unpack(z)[0], asked, self._chosen, self._outputs)[1]
            jacobian = weight[:, :, None] * self._features(by_constants, extra)
            whole = np.vstack([jacobian.reshape(-1, len(z)), np.eye(len(z))])
            gram, pull = whole.T @ whole, whole.T @ best
            before = best @ best
            for _ in range(_DAMPINGS):
                step = np.linalg.solve(gram + damping * np.diag(np.diag(gram)), pull)
                there = residuals(z - step)
                if there @ there < before:
                    z, best, damping = z - step, there, damping / 8.0
                    break
                damping *= 6.0
            else:
                break
            if before - best @ best < _ENOUGH * before:
                break
        return z, float(best @ best)

    def _start(self, asked: Asked, goal: Floats, known: NDArray[np.bool_]) -> Floats:
        """The prior's mean, scaled to the first measurement."""
        constants = _MEAN.copy()
        scales = {"latency": "read_s", "energy": "switching_w", "power": "switching_w"}
        for _ in range(4):
            for row, output in enumerate(self._outputs):
                off = (goal - predict(constants, asked, self._outputs))[row][known[row]]
                if output in scales and len(off):
                    constants[NAMES.index(scales[output])] += off[0]
        z = np.zeros_like(self.z)
        z[: len(self._chosen)] = ((constants - _MEAN) / _DEVIATION)[self._chosen]
        return z


def _free_constants(asked: Asked) -> NDArray[np.intp]:
    """Which constants settings like these can tell of."""
    without: set[str] = set() if asked.draft_len.any() else set(_DRAFT)
    if not asked.has_cpu.any():
        without |= {"cpu_idle", "cpu_busy"}
    if (asked.threads == 1.0).all():
        without.add("parallel")
    return np.array([k for k, name in enumerate(NAMES) if name not in without], np.intp)
