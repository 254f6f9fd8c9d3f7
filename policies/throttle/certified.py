"""Which settings cannot break the SLO, by physics alone."""

from __future__ import annotations

import numpy as np

from flyball.estimators.measured import Measured, distance
from flyball.policies.throttle.asked import ENDLESS
from flyball.policies.throttle.space import Bools, Floats, Places, Space

_MOST_BUSY = 0.8  # of its capacity; beyond, waiting grows faster than clocks fall
_SAME_LOAD = 0.05
_SURE = 2.0  # deviations of a measured latency


def slowdown(space: Space, settings: Places, measured: Places, alike: bool = True) -> Floats:
    """By how much settings (S, knobs) can be slower than one of the measured (n, knobs) at most.

    The least of max over clocks j of f_0j / f_j, at least 1, over those that differ by clocks
    alone, or, unless they have to be alike, over all; infinite over none.
    """
    clocks = np.array([knob.kind == "clock" for knob in space.knobs], np.bool_)
    numbers = np.flatnonzero(clocks).tolist()
    least = np.full(len(settings), np.inf)
    for setting in measured:
        same = (settings[:, ~clocks] == setting[~clocks]).all(axis=1) | (not alike)
        slower = np.ones(len(settings))
        for j in numbers:
            at = space.column(j, setting)
            slower = np.maximum(slower, at / space.column(j, settings))
        least = np.where(same, np.minimum(least, slower), least)
    return least


def certified(
    space: Space, settings: Places, load: Floats, measured: Measured, log_latency: Floats,
    variance: Floats, slo_s: float,
) -> Bools:  # fmt: skip
    """Whether settings (S, knobs) keep the SLO because a faster one did.

    Work takes at most inversely longer as clocks fall, so from a measured setting 0

        T(f) <= T(f_0) x max over clocks j of max(f_0j / f_j, 1),

    where all that is no clock is the same. Waiting grows faster than that once the machine gets
    busy, so that the bound counts only up to 80% of what the machine could generate: tokens per
    second x T, over requests at a time, is at least how busy it is.

    Args:
        space: of them.
        settings: (S, knobs).
        load: (3,) that they are asked for.
        measured: (n,) settings and their loads.
        log_latency: (n,) of them; NaN where unknown.
        variance: (n,) of its error.
        slo_s: not to be exceeded.
    """
    found = np.zeros(len(settings), np.bool_)
    near = ~np.isnan(log_latency) & (distance(measured.loads, load) <= _SAME_LOAD)
    names = [knob.name for knob in space.knobs]
    running = np.full(len(settings), max(float(load[1]), 1.0))
    if "batch_size" in names:
        running = np.minimum(running, space.column(names.index("batch_size"), settings))
    for row in np.flatnonzero(near):
        slower = slowdown(space, settings, measured.settings[row : row + 1])
        bound = np.exp(log_latency[row] + _SURE * np.sqrt(variance[row])) * slower
        calm = load[0] >= ENDLESS or load[0] * np.minimum(bound, slo_s) <= _MOST_BUSY * running
        found |= (bound <= slo_s) & calm
    return found
