"""Constants of decoding's physics, from few measurements and a prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
_UNKNOWN = 0.1  # share of the prior's variance, above which a direction is looked along
_FAR = 2.0  # deviations
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

    def bend(self, known: Asked, extra: Floats, variance: Floats, asked: Asked) -> Floats:
        """By how much the variance (S,) of a round's seconds exceeds that of its slopes.

        What takes the longer of two times shows nothing of the shorter one: at the fit its
        slope is next to nothing, and so is the deviation, until a clock falls far enough to make
        it the longer one. With s and c half the difference and half the sum of f(z + 2 v) - f(z)
        and f(z - 2 v) - f(z), f the logarithm of latency without a queue, each over the deviations
        that it really is away, measurements and prior being asked:

            sum of (|s| + c)^2 - s^2, where c is positive,

        over directions v that measurements leave open, in the constants' posterior deviations.

        Args:
            known: (n,) settings that were measured.
            extra: (n, F) of them.
            variance: (K, n) of what was measured, NaN where it was not.
            asked: (S,).
        """
        num = len(self._chosen)
        seen = self.linear(known, extra)[1] / np.sqrt(variance)[:, :, None]
        rows = np.nan_to_num(seen.reshape(-1, len(self.z)))
        values, vectors = np.linalg.eigh(rows.T @ rows + np.eye(len(self.z)))
        ways = _FAR * (vectors / np.sqrt(values))[:num, values < 1.0 / _UNKNOWN]
        both = np.concatenate([ways, -ways, np.zeros((num, 1))], axis=1)
        moved = np.repeat(self._unpack(self.z)[0][:, None], both.shape[1], axis=1)
        moved[self._chosen] += _DEVIATION[self._chosen][:, None] * both
        none = np.zeros_like(asked.core)
        alone = replace(asked, tokens_per_s=none + 1e-9, gathers=none)
        found = predict(moved, alone, ("latency",))[0]
        # Along a bend measurements, too, object more than their slopes say.
        there = predict(moved, known, self._outputs)
        off = np.nan_to_num((there[:, :-1] - there[:, -1:]) / np.sqrt(variance)[:, None])
        at = self.z[:num, None]
        against = (off**2).sum(axis=(0, 2)) + ((at + both[:, :-1]) ** 2 - at**2).sum(axis=0)
        away = np.sqrt(np.maximum(against, _FAR**2))[:, None]
        up, down = np.split((found[:-1] - found[-1]) / away, 2)  # (ways, S)
        slope, curve = np.abs(up - down) / 2.0, np.maximum(up + down, 0.0) / 2.0
        more: Floats = ((slope + curve) ** 2 - slope**2).sum(axis=0)
        return more

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
    return np.array([k for k, name in enumerate(NAMES) if name not in without], np.intp)
