"""Joules of a GPU, as NVML counts them."""

from __future__ import annotations

import logging

from flyball.controller.errors import NotSupportedError
from flyball.controller.hardware import Meter
from flyball.integrations.hardware.null import NullMeter
from flyball.integrations.hardware.nvml_library import Gpu
from flyball.integrations.hardware.power_integral import PowerIntegral

logger = logging.getLogger(__name__)


class NvmlMeter:
    """The GPU's own energy counter (`nvmlDeviceGetTotalEnergyConsumption`, mJ; Volta and later).

    It may be updated more slowly than a decoding step, so energy belongs to windows of a second
    or more. A counter that jumps back, as after a reset, has no energy for that window.

    Args:
        gpu: to be metered.

    Attributes:
        num_jumps: how often it jumped back; the first time is logged.
    """

    kind = "joules by NVML"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.num_jumps = 0
        self._last_mj = self._read_mj()

    def _read_mj(self) -> int:
        return int(self._gpu.call("nvmlDeviceGetTotalEnergyConsumption"))

    def energy_j(self) -> float:
        """Since the driver was loaded; NaN once where it jumped back.

        Raises:
            HardwareError: the GPU is lost; in one line.
        """
        now_mj, last_mj = self._read_mj(), self._last_mj
        self._last_mj = now_mj
        if now_mj >= last_mj:
            return now_mj / 1000
        if not self.num_jumps:
            logger.warning(
                "%s: the energy counter jumped back from %g to %g J; the window is lost",
                self._gpu.name,
                last_mj / 1000,
                now_mj / 1000,
            )
        self.num_jumps += 1
        return float("nan")


def nvml_meter(gpu: Gpu) -> Meter:
    """The energy counter; sampled power where the GPU has none, and no meter without either."""

    def power_w() -> float:
        return float(gpu.call("nvmlDeviceGetPowerUsage")) / 1000

    try:
        return NvmlMeter(gpu)
    except NotSupportedError:
        pass
    try:
        return PowerIntegral(power_w, "joules by NVML, from sampled power")
    except NotSupportedError:
        return NullMeter()
