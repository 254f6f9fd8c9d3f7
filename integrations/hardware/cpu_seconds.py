"""CPU seconds, which stand in for joules where no meter is."""

from __future__ import annotations

import logging
import os
import resource
import time
from pathlib import Path

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.rapl import RaplMeter

logger = logging.getLogger(__name__)


_PROC = Path("/proc")


class CpuSeconds:
    """CPU time of all threads of this process, and of processes that it started, and so on.

    It knows what a thread costs that waits in a loop, and nothing of clocks: at a lower clock the
    same work takes more CPU seconds, and less energy. What processes take that still run is known
    to a hundredth of a second.
    """

    kind = "CPU seconds, for want of a meter"

    def energy_j(self) -> float:
        """CPU seconds since the process began."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime + _descendants_s(os.getpid())


def _descendants_s(pid: int) -> float:
    """CPU seconds of processes that run below one, with those whose end they saw."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything. See proc_pid_stat(5).
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        child = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(child)
        ticks[child] = sum(map(int, fields[11:15]))  # user and system, own and of ended children
    found = children.get(pid, [])
    for below in found:  # grows on the way
        found.extend(children.get(below, ()))
    return sum(ticks[below] for below in found) / os.sysconf("SC_CLK_TCK")


def cpu_meter(sysfs: Path = Path("/sys")) -> RaplMeter | CpuSeconds:
    """RAPL where it can be read, else CPU seconds."""
    try:
        return RaplMeter(sysfs)
    except HardwareError as error:
        logger.info("no joules: %s", error)
        return CpuSeconds()
