"""Seconds and joules a token as physics has them, with its constants unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.decode_asked import NAMES, Asked, Floats
from flyball.estimators.decode_times import Times, logistic, times_of

_SOFT = 0.06
_STEP = 1e-4


def _watts(constants: Floats, asked: Asked, core: Floats, times: Times) -> tuple[Floats, Floats]:
    """Watts on average and while busy: f V^2, leakage V^2.5, memory, CPU and the rest."""
    at = dict(zip(NAMES, constants, strict=False))
    floor, kink = logistic(at["floor_v"]), logistic(at["kink"])
    rise = np.logaddexp(0.0, (core - kink) / _SOFT) / np.logaddexp(0.0, (1.0 - kink) / _SOFT)
    volts = floor + (1.0 - floor) * rise ** np.exp(at["bend"])
    gated, stall = np.exp(at["gated"]), np.exp(at["stall"])
    activity = gated * (1.0 - times.device)
    activity = activity + stall * (times.device - times.compute) + times.compute
    cpu = asked.has_cpu * asked.cpu * (0.35 + 0.65 * asked.cpu) ** 2
    idle = np.exp(at["base"]) + np.exp(at["leak"]) * volts**2.5
    idle = idle + np.exp(at["memory_idle"]) * asked.memory**1.25 + cpu * np.exp(at["cpu_idle"])
    extra = np.exp(at["memory_busy"]) * np.minimum(times.memory, 1.0)
    extra = extra + cpu * np.exp(at["cpu_busy"]) * times.host
    switching = core * volts**2 * asked.threads
    busy_w = idle + extra + switching * activity
    idle_w = idle + switching * gated
    scale, busy = np.exp(at["switching_w"]), times.busy
    return scale * (busy * busy_w + (1.0 - busy) * idle_w), scale * busy_w


def _limited(constants: Floats, asked: Asked) -> Floats:
    """The core's clock that fits the power limit, by bisection between a tenth of it and all."""
    core = np.broadcast_to(asked.core, np.broadcast_shapes(constants[0].shape, asked.core.shape))
    if not np.isfinite(asked.power_limit_w).any():
        return core

    def over(clock: Floats) -> NDArray[np.bool_]:
        busy_w = _watts(constants, asked, clock, times_of(constants, asked, clock))[1]
        found: NDArray[np.bool_] = busy_w > asked.power_limit_w
        return found

    low, high = 0.1 * core, core
    fits = ~over(core)
    if fits.all():
        return core
    for _ in range(7):
        middle = 0.5 * (low + high)
        above = over(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(fits, core, low)


def predict(constants: Floats, asked: Asked, outputs: Sequence[str]) -> Floats:
    """Logarithms of these of `OUTPUTS`, (outputs, ..., S).

    Args:
        constants: (P, ...), as in `PRIOR`.
        asked: (S,).
        outputs: by name.
    """
    column = constants[..., None]
    return _predict(column, asked, _limited(column, asked), outputs)[0]


def _predict(
    constants: Floats, asked: Asked, core: Floats, outputs: Sequence[str]
) -> tuple[Floats, Floats]:
    """Outputs (outputs, ...), and log watts while busy (...), at this clock of the core."""
    times = times_of(constants, asked, core)
    watts, busy_w = _watts(constants, asked, core, times)
    power, pace = np.log(watts), -np.log(np.maximum(times.served, 1e-9))
    every = {"energy": power + pace, "latency": np.log(times.latency_s), "pace": pace}
    every |= {"power": power, "load": np.log(times.load), "work": np.log(times.work_s)}
    return np.stack([every[name] for name in outputs]), np.log(busy_w)


def slopes(
    constants: Floats, asked: Asked, chosen: NDArray[np.intp], outputs: Sequence[str]
) -> tuple[Floats, Floats]:
    """`predict`, and how it changes with the chosen constants: (K, S), (K, S, chosen).

    Differences of 1e-4. Where the power limit binds, the core's clock x follows the constants c
    so that busy watts w stay: dx/dc = -(dw/dc) / (dw/dx).
    """
    column = constants[:, None]
    core = _limited(column, asked)
    moved = np.repeat(constants[:, None, None], len(chosen) + 1, axis=1)
    moved[chosen, np.arange(len(chosen)), 0] += _STEP
    out, busy = _predict(moved, asked, core, outputs)  # the last of these is not moved
    found = (out[:, :-1] - out[:, -1:]) / _STEP
    bound = core < asked.core
    if bound.any():
        there, busy_there = _predict(column, asked, core * (1.0 + _STEP), outputs)
        by_core = (there - out[:, -1]) / _STEP
        rise = np.maximum((busy_there - busy[-1]) / _STEP, 1e-3)
        follows = np.where(bound, -(busy[:-1] - busy[-1:]) / _STEP / rise, 0.0)
        found = found + by_core[:, None] * follows
    return out[:, -1], np.moveaxis(found, 1, 2)
