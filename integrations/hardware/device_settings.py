"""Settings as a device and its engine take them: a column a knob."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.policies.throttle.space import Places, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Backend:
    """An attention backend: a choice without order.

    Attributes:
        kv_efficiency: share of the bandwidth that reading keys and values reaches.
        host_factor: on the CPU's time for a step.
        long_factor: on the time of reading keys and values, for each doubling of the context
            beyond 1,024 tokens.
    """

    kv_efficiency: float
    host_factor: float
    long_factor: float


# Which wins depends on context, batch and CPU: none is best everywhere.
BACKENDS = {
    "paged": Backend(kv_efficiency=0.62, host_factor=1.00, long_factor=1.04),
    "split": Backend(kv_efficiency=0.72, host_factor=1.25, long_factor=1.00),
    "eager": Backend(kv_efficiency=0.50, host_factor=0.90, long_factor=1.10),
}
DEFAULT_BACKEND = "paged"


@dataclass(frozen=True)
class Settings:
    """Settings (S,), a column a knob; `backend` holds places among `BACKENDS`."""

    graphics_clock_mhz: Floats
    memory_clock_mhz: Floats
    cpu_clock_mhz: Floats
    power_limit_w: Floats
    batch_size: Floats
    draft_len: Floats
    backend: Places

    def take(self, rows: Places) -> Settings:
        """Some of them."""
        return Settings(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def backend_column(self, attribute: str) -> Floats:
        """An attribute (S,) of each setting's backend."""
        values = np.array([getattr(backend, attribute) for backend in BACKENDS.values()])
        found: Floats = values[self.backend]
        return found


def settings_of(spec: DeviceSpec, space: Space, places: Places, batch_size: float) -> Settings:
    """Settings of places (S, knobs); what the space lacks is at its highest, or at no drafting.

    Args:
        spec: of the device.
        space: that the places are of.
        places: (S, knobs).
        batch_size: limit where the space has none.
    """
    num = len(places)
    columns: dict[str, NDArray[np.float64]] = {
        "graphics_clock_mhz": np.full(num, spec.max_graphics_mhz),
        "memory_clock_mhz": np.full(num, spec.max_memory_mhz),
        "cpu_clock_mhz": np.full(num, spec.max_cpu_mhz),
        "power_limit_w": np.full(num, spec.power_limits_w[-1]),
        "batch_size": np.full(num, batch_size),
        "draft_len": np.zeros(num),
    }
    names = list(BACKENDS)
    backend = np.full(num, names.index(DEFAULT_BACKEND), np.intp)
    for j, knob in enumerate(space.knobs):
        if knob.kind == "category":
            backend = np.array([names.index(str(value)) for value in knob.values])[places[:, j]]
        else:
            columns[knob.name] = space.column(j, places)
    return Settings(backend=backend, **columns)
