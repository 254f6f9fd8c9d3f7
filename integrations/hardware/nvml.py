"""An NVIDIA GPU as a device to be set: clocks and power limit, through NVML.

NVML's manual: nvmlDeviceSetGpuLockedClocks and nvmlDeviceSetMemoryLockedClocks (MHz),
nvmlDeviceSetPowerManagementLimit (mW).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from flyball.controller.errors import HardwareError, NotSupportedError
from flyball.integrations.hardware.base import Lever, LeverActuator
from flyball.integrations.hardware.lock import settle
from flyball.integrations.hardware.nvml_library import NEEDED_RIGHT, Gpu, may_set
from flyball.integrations.hardware.orders import PutBackPowerLimit, Undo, UnlockClocks
from flyball.policies.throttle.space import Knob, Value

KNOBS = ("graphics_clock_mhz", "memory_clock_mhz", "power_limit_w")
_NUM_LIMITS = 9
_STATUS = Path("/proc/self/status")
_READINGS = {
    "power_w": ("nvmlDeviceGetPowerUsage", (), 1000),
    "temperature_c": ("nvmlDeviceGetTemperature", (0,), 1),
}


class ClockLever:
    """Locks one of a GPU's clocks; the highest value takes the lock away.

    Without a lock the GPU runs at its highest clock while it works, but falls when idle or hot.

    Args:
        gpu: to be set.
        values: clocks, MHz, ascending.
        memory: whether it is the memory's clock.
    """

    slow = True  # a switch takes about 200 ms (PolyThrottle, arXiv 2310.19991)

    def __init__(self, gpu: Gpu, values: Sequence[int], memory: bool) -> None:
        self._gpu = gpu
        self._memory = memory
        name = "memory_clock_mhz" if memory else "graphics_clock_mhz"
        last = len(values) - 1
        self.knob = Knob(name, tuple(map(float, values)), "clock", last, last)

    def read(self) -> Value:
        """The clock it runs at, which may be below the lock."""
        kind = "NVML_CLOCK_MEM" if self._memory else "NVML_CLOCK_GRAPHICS"
        return float(self._gpu.call("nvmlDeviceGetClockInfo", getattr(self._gpu.nvml, kind)))

    def write(self, value: Value) -> None:
        """Lock."""
        which = "MemoryLockedClocks" if self._memory else "GpuLockedClocks"
        if value == self.knob.values[-1]:
            self._gpu.call(f"nvmlDeviceReset{which}")
        else:
            clock = int(value)
            self._gpu.call(f"nvmlDeviceSet{which}", clock, clock)

    def undos(self) -> list[Undo]:
        """Unlock."""
        return [UnlockClocks(self._gpu.uuid, self._memory)]


class PowerLimitLever:
    """Sets a GPU's power limit, up to the one in force: that may be there for the rack's sake.

    Args:
        gpu: to be set.
    """

    slow = True

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        least, _ = gpu.call("nvmlDeviceGetPowerManagementLimitConstraints")
        now = self._limit_mw()
        between = np.linspace(least, now, _NUM_LIMITS).round(-3).astype(int).tolist()
        values = sorted({mw / 1000 for mw in between if least <= mw <= now} | {now / 1000})
        last = len(values) - 1
        self.knob = Knob("power_limit_w", tuple(values), "limit", last, last)

    def _limit_mw(self) -> int:
        return int(self._gpu.call("nvmlDeviceGetPowerManagementLimit"))

    def read(self) -> Value:
        """The limit in force."""
        return self._limit_mw() / 1000

    def write(self, value: Value) -> None:
        """Set."""
        self._gpu.call("nvmlDeviceSetPowerManagementLimit", round(float(value) * 1000))

    def undos(self) -> list[Undo]:
        """The limit in force now."""
        return [PutBackPowerLimit(self._gpu.uuid, self._limit_mw())]


class NvmlActuator(LeverActuator):
    """Sets clocks and power limit of one GPU. Dry run by default.

    Setting needs root or CAP_SYS_ADMIN; reading needs no right. A lock of clocks that somebody
    else set before cannot be seen through NVML, and is gone after `restore`.

    Args:
        index: of the GPU, as NVML counts.
        knobs: to be offered, of `KNOBS`; those that the GPU does not show are left out.
        dry_run: log what would be set, and set nothing.
        num_clocks: graphics clocks to offer at most, evenly spaced; GPUs support a hundred.
        lock_dir: folder of lock files; None for that of the machine.

    Raises:
        DeviceBusyError: another process governs it; not in a dry run.
        HardwareError: no driver or no such GPU; in one line.
    """

    def __init__(
        self,
        index: int = 0,
        knobs: Collection[str] = KNOBS,
        dry_run: bool = True,
        num_clocks: int = 24,
        lock_dir: Path | None = None,
    ) -> None:
        self.gpu = Gpu(index)
        unknown = sorted(set(knobs) - set(KNOBS))
        if unknown:
            raise HardwareError(f"expected knobs of {', '.join(KNOBS)}, but got {unknown[0]}")
        device = f"nvml {self.gpu.uuid}"
        if not dry_run:
            settle(device, lock_dir)
        levers = [lever for lever in _levers(self.gpu, num_clocks) if lever.knob.name in knobs]
        super().__init__(device, levers, dry_run, lock_dir=lock_dir)
        if not may_set(os.geteuid(), _STATUS.read_text(encoding="ascii", errors="replace")):
            self.denied = [f"{lever.knob.name}: needs {NEEDED_RIGHT}" for lever in levers]

    def read(self) -> dict[str, Value]:
        """Knobs by name, and power and temperature where the GPU shows them.

        Raises:
            HardwareError: the GPU is lost; in one line.
        """
        shown = super().read()
        for name, (function, args, per_unit) in _READINGS.items():
            try:
                shown[name] = self.gpu.call(function, *args) / per_unit
            except NotSupportedError:
                continue
        return shown


def _levers(gpu: Gpu, num_clocks: int) -> list[Lever]:
    levers: list[Lever] = []
    with contextlib.suppress(NotSupportedError):
        graphics, memory = supported_clocks(gpu)
        levers += [
            ClockLever(gpu, _thinned(graphics, num_clocks), memory=False),
            ClockLever(gpu, memory, memory=True),
        ]
    with contextlib.suppress(NotSupportedError):
        levers.append(PowerLimitLever(gpu))
    return levers


def supported_clocks(gpu: Gpu) -> tuple[list[int], list[int]]:
    """Graphics and memory clocks, MHz, ascending, all combinations of which are supported.

    Idle memory clocks, at which the highest graphics clock is not supported, are left out.

    Raises:
        NotSupportedError: the GPU shows none.
    """
    by_memory = {
        clock: set(gpu.call("nvmlDeviceGetSupportedGraphicsClocks", clock))
        for clock in gpu.call("nvmlDeviceGetSupportedMemoryClocks")
    }
    highest = max((max(clocks, default=0) for clocks in by_memory.values()), default=0)
    kept = {clock: clocks for clock, clocks in by_memory.items() if highest in clocks}
    if not kept:
        raise NotSupportedError(f"{gpu.name}: shows no supported clocks")
    return sorted(set.intersection(*kept.values())), sorted(kept)


def _thinned(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, evenly spaced, both ends among them."""
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places.tolist()]
