"""The CPU as a device to be set."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.base import Lever, LeverActuator
from flyball.integrations.hardware.cpu_levers import AffinityLever, ThreadsLever, cpus_by_core
from flyball.integrations.hardware.lock import settle
from flyball.integrations.hardware.sysfs_levers import SysfsLever, machine_levers

PROCESS_KNOBS = ("num_threads", "num_cpus")


class CpuActuator(LeverActuator):
    """Sets threads and affinity of this process, and the machine's CPU clock and power.

    Clock and power are there where sysfs has them and they may be written. They belong to the
    whole machine: then one governor at a time has the CPU. Threads and affinity are each
    process's own, and end with it.

    Args:
        dry_run: log what would be set, and set nothing.
        sysfs: where it is mounted.
        clock_separable: whether decoding runs elsewhere, so that the clock is tuned alone.
        process_knobs: of this process to be offered, of `PROCESS_KNOBS`; none where other
            processes decode.
        lock_dir: folder of lock files; None for that of the machine.

    Raises:
        DeviceBusyError: another process governs the machine's CPU; not in a dry run.
        HardwareError: this is not Linux; in one line.
    """

    def __init__(
        self,
        dry_run: bool = False,
        sysfs: Path = Path("/sys"),
        clock_separable: bool = False,
        process_knobs: Collection[str] = PROCESS_KNOBS,
        lock_dir: Path | None = None,
    ) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise HardwareError(f"expected Linux, but got {sys.platform}; its CPUs cannot be set")
        cpus = cpus_by_core(sysfs)
        found = machine_levers(sysfs, clock_separable)
        of_process = not any(lever.writable for lever in found)
        device = f"cpu of process {os.getpid()}" if of_process else "cpu"
        if not (of_process or dry_run):
            settle(device, lock_dir)
            found = machine_levers(sysfs, clock_separable)
        of_this: list[Lever] = [ThreadsLever(len(cpus)), AffinityLever(cpus)]
        levers = [lever for lever in of_this if lever.knob.name in process_knobs]
        levers += [lever for lever in found if lever.writable]
        super().__init__(device, levers, dry_run, of_process, lock_dir)
        self.denied = [_why(lever) for lever in found if not lever.writable]


def _why(lever: SysfsLever) -> str:
    return f"{lever.knob.name}: needs root, and {lever.files[0].parent} writable"
