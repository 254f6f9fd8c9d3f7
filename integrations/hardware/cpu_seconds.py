"""CPU seconds, which stand in for joules where no meter is."""

from __future__ import annotations

import logging
import resource
import time
from pathlib import Path

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.rapl import RaplMeter

logger = logging.getLogger(__name__)


class CpuSeconds:
    """CPU time of all threads of this process, and of processes that it started and saw end.

    It knows what a thread costs that waits in a loop, and nothing of clocks: at a lower clock the
    same work takes more CPU seconds, and less energy.
    """

    kind = "CPU seconds, for want of a meter"

    def energy_j(self) -> float:
        """CPU seconds since the process began."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime


def cpu_meter(sysfs: Path = Path("/sys")) -> RaplMeter | CpuSeconds:
    """RAPL where it can be read, else CPU seconds."""
    try:
        return RaplMeter(sysfs)
    except HardwareError as error:
        logger.info("no joules: %s", error)
        return CpuSeconds()
