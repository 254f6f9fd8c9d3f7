"""Devices by name, as policy files and commands know them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from flyball.controller.hardware import Meter
from flyball.integrations.hardware.base import LeverActuator


def open_device(
    name: Literal["cpu", "nvml"],
    gpu: int,
    dry_run: bool,
    process_knobs: Collection[str] | None = None,
) -> tuple[LeverActuator, Meter]:
    """A device and its best meter.

    Args:
        name: of the device.
        gpu: of nvml: as NVML counts.
        dry_run: log what would be set, and set nothing.
        process_knobs: of cpu: knobs of this process to be offered; None for all.

    Raises:
        HardwareError: it is not here, or another process governs it; in one line.
    """
    if name == "cpu":
        from flyball.integrations.hardware.cpu import PROCESS_KNOBS, CpuActuator
        from flyball.integrations.hardware.cpu_seconds import cpu_meter

        knobs = PROCESS_KNOBS if process_knobs is None else process_knobs
        return CpuActuator(dry_run, process_knobs=knobs), cpu_meter()
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
