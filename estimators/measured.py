"""What settings showed, as much as is worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from flyball.estimators.decode_asked import TAIL

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

MOST = 64
_COLUMNS = ("settings", "loads", "mean", "weight", "level", "arrived")
_CLOSE = 0.04  # logarithms of loads, and acceptances, that differ by no more are one
_STRETCH = 16.0  # tokens that a latency is taken over, about
_QUANTILE = 0.99
_DEVIATION = 0.1  # of logarithms of latencies, about
_METER, _CLOCK = 0.015, 0.015  # relative errors of a window's joules and seconds besides
_ERRORS = {"load": 0.7, "work": 0.005}
_NEVER = 1e6  # variance of what no window shows
_BELIEVED = 6.0  # windows that these are worth against repeats


class Measured:
    """Means of logarithms of what windows showed, by setting and load, and their errors.

    Windows of one setting under one load are one row. A window with few tokens cannot show the
    99% quantile of latencies: of m readings it shows that of (0.99 (m - 1) + 0.6) / (m + 0.2), and
    with an error of deviation x sqrt(p (1 - p) / m) / density. Repeats tell by how much both
    errors are larger or smaller than believed. Beyond 64 rows the oldest one of
    those far from the latest load goes.

    Attributes:
        settings: (n, knobs).
        loads: (n, 3).
        mean: (n, K) of K outputs; NaN where unknown.
        weight: (n, K) windows, each divided by its variance.
        level: (n,) normal quantile that latencies are.
        arrived: (n,) tokens per second that came, which loads say on average only.

    Args:
        num_knobs: of a setting.
        outputs: K of `OUTPUTS`, by name.
    """

    def __init__(self, num_knobs: int, outputs: Sequence[str]) -> None:
        self._is_latency = np.array([name == "latency" for name in outputs])
        self._is_load = np.array([name == "load" for name in outputs])
        self._is_work = np.array([name == "work" for name in outputs])
        self._errors = np.array([_ERRORS.get(name, _METER) for name in outputs])
        self.settings = np.empty((0, num_knobs), np.intp)
        self.loads = np.empty((0, 3))
        self.mean = np.empty((0, len(outputs)))
        self.weight = np.empty((0, len(outputs)))
        self.level = np.empty(0)
        self.arrived = np.empty(0)
        self._repeats = np.full((2, len(outputs)), _BELIEVED)
        self._latest = self._errors**2  # variances of a window's errors, as believed

    def add(
        self, setting: Places, load: Floats, value: Floats, num_tokens: int, arrived: float
    ) -> None:
        """Take in a window's logarithms (K,); NaN where it did not show one."""
        known = np.isfinite(value)
        if not known.any():
            return
        level, latency_variance = _tail(num_tokens)
        variance = np.where(self._is_latency, latency_variance, self._errors**2)
        variance = variance + self._is_work * _DEVIATION**2 / max(num_tokens / _STRETCH, 1.0)
        weight = np.where(known, 1.0 / variance, 0.0)
        self._latest = np.where(self._is_load, _NEVER, variance)
        row = self._row(setting, load)
        if row is None:
            self._append(setting, load, np.where(known, value, np.nan), weight, (level, arrived))
            return
        before, had = self.mean[row], self.weight[row]
        both = known & (had > 0.0)
        off = np.where(both, value - before, 0.0)
        expected = np.where(both, 1.0 / np.maximum(weight, 1e-9) + 1.0 / np.maximum(had, 1e-9), 1)
        self._repeats[0] += both * off**2 / expected
        self._repeats[1] += both
        total = np.maximum(had + weight, 1e-9)
        filled = np.where(had > 0.0, before, value)
        self.mean[row] = np.where(known, filled + weight / total * (value - filled), before)
        share = float((weight / total).max())
        self.level[row] += share * (level - self.level[row])
        self.arrived[row] += share * (arrived - self.arrived[row])
        self.loads[row] += share * (load - self.loads[row])
        self.weight[row] = had + weight

    @property
    def variance(self) -> Floats:
        """(n, K) of the means' errors."""
        factor = self._repeats[0] / self._repeats[1]
        found: Floats = factor / np.maximum(self.weight, 1e-9)
        return found

    @property
    def window_variance(self) -> Floats:
        """(K,) of the errors of another window like the latest; huge of what none shows."""
        found: Floats = self._latest * self._repeats[0] / self._repeats[1]
        return found

    def _row(self, setting: Places, load: Floats) -> int | None:
        same = (self.settings == setting).all(axis=1) & (distance(self.loads, load) <= _CLOSE)
        return int(same.argmax()) if same.any() else None

    def _append(
        self,
        setting: Places,
        load: Floats,
        value: Floats,
        weight: Floats,
        how: tuple[float, float],
    ) -> None:
        if len(self.settings) >= MOST:
            far = distance(self.loads, load)
            self._drop(int((far >= np.median(far)).argmax()))
        self.settings = np.vstack([self.settings, setting])
        self.loads = np.vstack([self.loads, load])
        self.mean = np.vstack([self.mean, value])
        self.weight = np.vstack([self.weight, weight])
        self.level = np.append(self.level, how[0])
        self.arrived = np.append(self.arrived, how[1])

    def _drop(self, row: int) -> None:
        for name in _COLUMNS:
            setattr(self, name, np.delete(getattr(self, name), row, axis=0))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All rows."""
        return {
            "settings": self.settings,
            "loads": self.loads,
            "mean": self.mean,
            "weight": self.weight,
            "level": self.level,
            "arrived": self.arrived,
            "repeats": self._repeats,
            "latest": self._latest,
        }

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        for name in _COLUMNS:
            setattr(self, name, state[name].copy())
        self._repeats = state["repeats"].copy()
        self._latest = state["latest"].copy()


def distance(loads: Floats, load: Floats) -> Floats:
    """How far (n,) loads (n, 3) are from one: by the part that differs most, in logarithms."""
    logs = np.abs(np.log(np.clip(loads[:, :2], 1e-9, 1e12) / np.clip(load[:2], 1e-9, 1e12)))
    found: Floats = np.maximum(logs.max(axis=1, initial=0.0), np.abs(loads[:, 2] - load[2]))
    return found


def _tail(num_tokens: int) -> tuple[float, float]:
    """The normal quantile that so many tokens show of latencies, and its error's variance."""
    m = max(num_tokens / _STRETCH, 4.0)
    share = (_QUANTILE * (m - 1.0) + 0.6) / (m + 0.2)
    normal = float(ndtri(share))
    density = np.exp(-(normal**2) / 2.0) / np.sqrt(2.0 * np.pi)
    error = _DEVIATION * np.sqrt(share * (1.0 - share) / m) / density
    return TAIL * normal / float(ndtri(_QUANTILE)), float(_CLOCK**2 + error**2)
