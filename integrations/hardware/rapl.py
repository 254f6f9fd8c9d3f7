"""Joules of CPU packages, as RAPL counts them.

Kernel documentation: power/powercap (energy_uj, max_energy_range_uj; both uJ).
"""

from __future__ import annotations

from pathlib import Path

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.sysfs_levers import packages, read_int


class RaplMeter:
    """Energy of all CPU packages of the machine, whoever uses them.

    Counters begin anew at the end of their range, after about 40 minutes at 100 W: they must be
    read more often than that. Reading needs root on kernels since 5.10 (CVE-2020-8694).

    Args:
        sysfs: where it is mounted.

    Raises:
        HardwareError: the machine has no such counters, or they cannot be read; in one line.
    """

    kind = "joules by RAPL"

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        zones = [zone for zone in packages(sysfs) if (zone / "energy_uj").exists()]
        if not zones:
            raise HardwareError(f"{sysfs}: expected class/powercap/intel-rapl:*, but got none")
        self._files = [zone / "energy_uj" for zone in zones]
        self._ranges_uj = [read_int(zone / "max_energy_range_uj") for zone in zones]
        self._last_uj = list(map(read_int, self._files))
        self._sum_uj = 0

    def energy_j(self) -> float:
        """Since it was made.

        Raises:
            HardwareError: in one line.
        """
        now_uj = list(map(read_int, self._files))
        for now, last, most in zip(now_uj, self._last_uj, self._ranges_uj, strict=True):
            self._sum_uj += now - last if now >= last else now - last + most
        self._last_uj = now_uj
        return self._sum_uj / 1_000_000
