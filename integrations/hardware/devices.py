"""Devices by name, as policy files and commands know them."""

from __future__ import annotations

from typing import Literal

from flyball.controller.hardware import Meter
from flyball.integrations.hardware.base import LeverActuator


def open_device(
    name: Literal["cpu", "nvml"], gpu: int, dry_run: bool
) -> tuple[LeverActuator, Meter]:
    """A device and its best meter.

    Raises:
        HardwareError: it is not here, or another process governs it; in one line.
    """
    if name == "cpu":
        from flyball.integrations.hardware.cpu import CpuActuator
        from flyball.integrations.hardware.cpu_seconds import cpu_meter

        return CpuActuator(dry_run), cpu_meter()
    from flyball.integrations.hardware.nvml import NvmlActuator
    from flyball.integrations.hardware.nvml_meter import nvml_meter

    actuator = NvmlActuator(gpu, dry_run=dry_run)
    return actuator, nvml_meter(actuator.gpu)


def best_meter(gpu: int | None) -> Meter:
    """The meter of what decodes: of this GPU, or of the CPU for None.

    Raises:
        HardwareError: NVML does not show that GPU; in one line.
    """
    if gpu is None:
        from flyball.integrations.hardware.cpu_seconds import cpu_meter

        return cpu_meter()
    from flyball.integrations.hardware.nvml_library import Gpu
    from flyball.integrations.hardware.nvml_meter import nvml_meter

    return nvml_meter(Gpu(gpu))
