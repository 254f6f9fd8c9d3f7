"""What a device draws, busy and idle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_settings import Settings
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_time import Round

Floats = NDArray[np.float64]

LEAK_EXPONENT = 2.5  # of voltage; leakage current itself rises with it
LEAK_DEGREES = 45.0  # that leakage grows by e over
MEMORY_EXPONENT = 1.25  # of the memory's clock: its voltage falls a little with it
CPU_FLOOR = 0.35  # share of a CPU's voltage that does not fall with its clock


def leak_w(spec: DeviceSpec, graphics_clock_mhz: Floats, temperature_c: Floats) -> Floats:
    """Watts (S,) that leak: leak_w x (V / V_max)^2.5 x exp((temperature - 60) / 45)."""
    ratio = _volt_ratio(spec, graphics_clock_mhz)
    warm = np.exp(np.minimum((temperature_c - 60.0) / LEAK_DEGREES, 1.5))
    leaked: Floats = spec.leak_w * ratio**LEAK_EXPONENT * warm
    return leaked


def busy_w(
    spec: DeviceSpec,
    settings: Settings,
    graphics_clock_mhz: Floats,
    round: Round,
    temperature_c: Floats,
) -> Floats:
    """Watts (S,) while rounds run.

        base + leak + dynamic x f/f_max x (V/V_max)^2 x activity + memory + CPU

    with activity from gated (the device waits for the CPU) over stalled (it waits for memory) to
    1 (every cycle does arithmetic).
    """
    working = round.device_s / round.round_s
    compute = np.minimum(round.compute_share, working)
    activity = spec.gated_activity * (1.0 - working)
    activity = activity + spec.stall_activity * (working - compute) + compute
    dynamic = spec.dynamic_w * _switching(spec, graphics_clock_mhz) * activity
    memory = _memory_idle_w(spec, settings) + spec.memory_busy_w * round.memory_share
    cpu = _cpu_w(spec, settings, round.host_share)
    leak = leak_w(spec, graphics_clock_mhz, temperature_c)
    watts: Floats = spec.base_w + leak + dynamic + memory + cpu
    return watts


def idle_w(
    spec: DeviceSpec, settings: Settings, graphics_clock_mhz: Floats, temperature_c: Floats
) -> Floats:
    """Watts (S,) while nothing runs: clocks stay where they are locked."""
    gated = spec.dynamic_w * _switching(spec, graphics_clock_mhz) * spec.gated_activity
    cpu = _cpu_w(spec, settings, np.zeros_like(graphics_clock_mhz))
    leak = leak_w(spec, graphics_clock_mhz, temperature_c)
    return spec.base_w + leak + gated + _memory_idle_w(spec, settings) + cpu


def _volt_ratio(spec: DeviceSpec, graphics_clock_mhz: Floats) -> Floats:
    highest = spec.voltage.at(np.array([spec.max_graphics_mhz]))
    return spec.voltage.at(graphics_clock_mhz) / highest


def _switching(spec: DeviceSpec, graphics_clock_mhz: Floats) -> Floats:
    """F V^2 (S,) over its value at the highest clock."""
    ratio = _volt_ratio(spec, graphics_clock_mhz)
    switching: Floats = graphics_clock_mhz / spec.max_graphics_mhz * ratio**2
    return switching


def _memory_idle_w(spec: DeviceSpec, settings: Settings) -> Floats:
    share = settings.memory_clock_mhz / spec.max_memory_mhz
    watts: Floats = spec.memory_idle_w * share**MEMORY_EXPONENT
    return watts


def _cpu_w(spec: DeviceSpec, settings: Settings, host_share: Floats) -> Floats:
    share = settings.cpu_clock_mhz / spec.max_cpu_mhz
    volts = CPU_FLOOR + (1.0 - CPU_FLOOR) * share
    watts: Floats = share * volts**2 * (spec.cpu_idle_w + spec.cpu_busy_w * host_share)
    return watts
