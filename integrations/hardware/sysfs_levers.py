"""What can be set of a CPU for the whole machine: clock and package power, through sysfs.

Kernel documentation: admin-guide/pm/cpufreq (scaling_max_freq, kHz) and power/powercap
(constraint_0_power_limit_uw, uW).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flyball.controller.errors import HardwareError, HardwarePermissionError
from flyball.integrations.hardware.orders import Undo, WriteFile
from flyball.policies.throttle.space import Knob, Value

_NUM_STEPS = 9  # values, where the kernel names only the ends
_LEAST_POWER = 0.3  # of the limit in force


class SysfsLever:
    """Files of sysfs that hold the same number, in a smaller unit than the knob's.

    The number may differ between files (fast and slow cores); setting makes them alike, as far as
    each goes, and undoing gives each its own back.

    Args:
        knob: in its own unit.
        files: with a number each.
        per_unit: of the files' unit in one of the knob's.
        limits: least and largest number that each file takes.

    Attributes:
        files: as given.
    """

    slow = True

    def __init__(
        self,
        knob: Knob,
        files: Sequence[Path],
        per_unit: int,
        limits: Sequence[tuple[int, int]],
    ) -> None:
        self.knob = knob
        self.files = tuple(files)
        self._per_unit = per_unit
        self._limits = tuple(limits)

    @property
    def writable(self) -> bool:
        """Whether this process may set it."""
        return all(os.access(file, os.W_OK) for file in self.files)

    def read(self) -> Value:
        """The largest that is in force."""
        return max(map(read_int, self.files)) / self._per_unit

    def write(self, value: Value) -> None:
        """Set all files."""
        number = round(float(value) * self._per_unit)
        for file, (least, most) in zip(self.files, self._limits, strict=True):
            write_int(file, min(max(number, least), most))

    def undos(self) -> list[Undo]:
        """Each file's own number."""
        return [WriteFile(str(file), str(read_int(file))) for file in self.files]


def machine_levers(sysfs: Path, clock_separable: bool) -> list[SysfsLever]:
    """Those that the machine has; see `clock_lever` and `power_lever`."""
    found = (clock_lever(sysfs, clock_separable), power_lever(sysfs))
    return [lever for lever in found if lever is not None]


def clock_lever(sysfs: Path, separable: bool) -> SysfsLever | None:
    """The largest CPU clock, `cpu_clock_mhz`; None where the machine has no cpufreq.

    Args:
        sysfs: where it is mounted.
        separable: whether decoding runs elsewhere, so that this clock is tuned alone.
    """
    policies = sorted((sysfs / "devices/system/cpu/cpufreq").glob("policy*"))
    if not policies:
        return None
    limits = [
        (read_int(policy / "cpuinfo_min_freq"), read_int(policy / "cpuinfo_max_freq"))
        for policy in policies
    ]
    files = [policy / "scaling_max_freq" for policy in policies]
    now = max(map(read_int, files))
    named = policies[0] / "scaling_available_frequencies"
    if named.exists():
        khz = {int(word) for word in named.read_text(encoding="ascii").split()}
    else:
        khz = set(_between(min(least for least, _ in limits), max(most for _, most in limits)))
    values = sorted({*khz, now})
    knob = Knob(
        "cpu_clock_mhz",
        tuple(number / 1000 for number in values),
        "clock",
        values.index(now),
        len(values) - 1,
        separable,
    )
    return SysfsLever(knob, files, 1000, limits)


def power_lever(sysfs: Path) -> SysfsLever | None:
    """Each package's long-term power limit, `package_power_limit_w`; None without powercap."""
    files = [
        zone / "constraint_0_power_limit_uw"
        for zone in packages(sysfs)
        if (zone / "constraint_0_power_limit_uw").exists()
    ]
    if not files:
        return None
    now = max(map(read_int, files))
    values = sorted({*_between(round(_LEAST_POWER * now), now), now})
    watts = tuple(number / 1_000_000 for number in values)
    last = len(values) - 1
    knob = Knob("package_power_limit_w", watts, "limit", last, last)
    return SysfsLever(knob, files, 1_000_000, [(0, now)] * len(files))


def packages(sysfs: Path) -> list[Path]:
    """Powercap zones of whole CPU packages, those within them left out."""
    zones = (sysfs / "class/powercap").glob("intel-rapl:*")
    return sorted(zone for zone in zones if zone.name.count(":") == 1)


def read_int(file: Path) -> int:
    """A file's number.

    Raises:
        HardwareError: it cannot be read, or is none; in one line.
    """
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise HardwareError(f"{file}: expected a number, but: {error}") from error


def write_int(file: Path, number: int) -> None:
    """Write a file's number.

    Raises:
        HardwarePermissionError: the right is missing.
        HardwareError: the kernel refuses; in one line.
    """
    try:
        file.write_text(str(number), encoding="ascii")
    except PermissionError as error:
        raise HardwarePermissionError(f"{file}: cannot be written; it needs root") from error
    except OSError as error:
        raise HardwareError(f"{file}: cannot be set to {number}: {error.strerror}") from error


def _between(least: int, most: int) -> list[int]:
    return [round(number) for number in np.linspace(least, most, _NUM_STEPS).tolist()]
