"""What physics knows of settings, and what it does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.decode_asked import TAIL, Asked
from flyball.policies.throttle.base import Context
from flyball.policies.throttle.space import Floats, Places, Space

# Knobs that physics has a place for; others are learned from nothing.
KNOWN = (
    "graphics_clock_mhz",
    "memory_clock_mhz",
    "cpu_clock_mhz",
    "num_threads",
    "num_cpus",
    "power_limit_w",
    "batch_size",
    "draft_len",
)
ENDLESS = 1e12  # tokens per second, for finite arithmetic


def load_of(space: Space, context: Context) -> Floats:
    """A context as a load (3,), finite.

    Of an endless queue as many requests decode as the setting lets in: that is no load but its
    answer, so that windows of all batch limits are of one load.
    """
    load = np.minimum(context.array, ENDLESS)
    if load[0] >= ENDLESS and any(knob.name == "batch_size" for knob in space.knobs):
        load[1] = 1.0
    return load


def asked_of(space: Space, settings: Places, loads: Floats) -> Asked:
    """Settings (S, knobs) under loads (S, 3) of `load_of`, as physics takes them."""
    columns = {
        knob.name: space.column(j, settings)
        for j, knob in enumerate(space.knobs)
        if knob.name in KNOWN and knob.kind != "category"
    }
    tops = {knob.name: knob.values[-1] for knob in space.knobs}
    one = np.ones(len(settings))

    def share(name: str) -> Floats:
        return columns[name] / float(tops[name]) if name in columns else one

    batch_limit = columns.get("batch_size", one * np.inf)
    most_threads = float(tops.get("num_threads", tops.get("num_cpus", 1.0)))
    num_threads = columns.get("num_threads", most_threads * one)
    num_cpus = columns.get("num_cpus", num_threads)
    tokens_per_s, in_flight = loads[:, 0], np.maximum(loads[:, 1], 1.0)
    return Asked(
        core=share("graphics_clock_mhz"),
        threads=np.minimum(num_threads, num_cpus) / most_threads,
        contention=np.maximum(num_threads / num_cpus, 1.0),
        memory=share("memory_clock_mhz"),
        cpu=share("cpu_clock_mhz"),
        has_cpu=one * ("cpu_clock_mhz" in columns),
        power_limit_w=columns.get("power_limit_w", one * np.inf),
        batch_limit=batch_limit,
        draft_len=columns.get("draft_len", 0.0 * one),
        tokens_per_s=np.maximum(tokens_per_s, 1e-9),
        arrived_per_s=np.maximum(tokens_per_s, 1e-9),
        in_flight=in_flight,
        acceptance=np.clip(loads[:, 2], 0.0, 1.0),
        level=TAIL * one,
        gathers=0.0 * one,
        saturated=(tokens_per_s >= ENDLESS).astype(np.float64),
    )


def unknown_features(space: Space, settings: Places) -> tuple[Floats, NDArray[np.float64]]:
    """Features (S, F) of knobs that physics has no place for, and their deviations (F,).

    Numbers: their logarithm (or place, where one is not positive) from the safe value on, in units
    of the whole range, and its square; categories: one column a value. Each is believed to change
    the logarithms of energy and latency by no more than a few such deviations.
    """
    columns: list[Floats] = []
    deviations: list[float] = []
    for j, knob in enumerate(space.knobs):
        if knob.kind == "category":
            for place in range(len(knob.values)):
                columns.append((settings[:, j] == place) * 1.0)
                deviations.append(0.1)
        elif knob.name not in KNOWN:
            along = coordinate(space, j, settings)
            along = along - coordinate(space, j, space.safe[None])
            columns += [along, along**2]
            deviations += [0.5, 0.3]
    found = np.stack(columns, axis=1) if columns else np.zeros((len(settings), 0))
    return found, np.array(deviations)


def coordinates(space: Space, settings: Places, loads: Floats) -> Floats:
    """Where settings and loads lie, (S, C): knobs over 0 to 1, loads in factors of four."""
    columns: list[Floats] = []
    for j, knob in enumerate(space.knobs):
        if knob.kind == "category":
            columns += [0.7 * (settings[:, j] == place) for place in range(len(knob.values))]
        else:
            columns.append(coordinate(space, j, settings))
    columns += [np.log(np.clip(loads[:, k], 1e-3, ENDLESS)) / np.log(4.0) for k in range(2)]
    return np.stack([*columns, 2.0 * loads[:, 2]], axis=1)


def coordinate(space: Space, knob: int, settings: Places) -> Floats:
    """A numeric knob's place in its range (S,), 0 to 1; by logarithms where it is positive."""
    values = np.array(space.knobs[knob].values, np.float64)
    scale = np.log(values) if values[0] > 0.0 else np.arange(len(values), dtype=np.float64)
    span = max(float(scale[-1] - scale[0]), 1e-9)
    found: Floats = ((scale - scale[0]) / span)[settings[:, knob]]
    return found
