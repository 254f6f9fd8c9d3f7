"""What a device is: its clocks, and the constants of its physics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Voltage:
    """Supply of the graphics clock: flat up to a first kink, then steeper after each.

        V(f) = floor + sum over kinks of slope x max(f - kink, 0), rounded up to a step

    Attributes:
        floor_v: below which the regulator does not go.
        kinks: pairs of MHz and volts per GHz added from there on.
        step_v: of the regulator.
    """

    floor_v: float
    kinks: tuple[tuple[float, float], ...]
    step_v: float = 0.00625

    def at(self, clock_mhz: Floats) -> Floats:
        """Volts (S,) at clocks (S,)."""
        volts = np.full(np.shape(clock_mhz), self.floor_v)
        for kink_mhz, slope in self.kinks:
            volts = volts + slope * np.maximum(clock_mhz - kink_mhz, 0.0) / 1000.0
        stepped: Floats = np.ceil(volts / self.step_v - 1e-9) * self.step_v
        return stepped


@dataclass(frozen=True)
class DeviceSpec:
    """A device.

    Watts are at the highest clocks and at 60 degrees C unless said otherwise.

    Attributes:
        name: of the class of devices.
        graphics_clocks_mhz: that it can run at, ascending.
        memory_clocks_mhz: likewise.
        cpu_clocks_mhz: likewise, of the cores that feed it.
        memory_bytes: for weights, keys and values.
        bandwidth_bytes_s: of its memory at the highest memory clock.
        flops_s: dense 16-bit operations a second at the highest graphics clock.
        power_limits_w: that can be set, ascending; the last is the default.
        voltage: of the graphics clock.
        base_w: drawn whatever happens: regulators, fans, links.
        leak_w: of the graphics part at its highest voltage; it grows with temperature.
        dynamic_w: of the graphics part where every cycle does arithmetic.
        stall_activity: share of `dynamic_w` drawn by cycles that wait for memory.
        gated_activity: share drawn by cycles without any work.
        memory_idle_w: of the memory's interface and fabric, nearly proportional to its clock.
        memory_busy_w: more at full bandwidth, proportional to bytes a second.
        cpu_idle_w: of the CPU at its highest clock and idle; 0 where the meter leaves it out.
        cpu_busy_w: more while it works, proportional to the cube of its clock above a floor.
        compute_efficiency: share of `flops_s` that matrix products reach.
        memory_efficiency: share of `bandwidth_bytes_s` that reading weights reaches.
        core_bandwidth: bandwidth that the graphics clock allows at its highest, over the
            memory's own: low graphics clocks cannot ask for bytes fast enough.
        roof_exponent: p of the soft maximum of compute and memory time; infinite for perfect
            overlap, 1 for none.
        tile: rows that matrix units take at a time; a partly filled tile costs as a full one.
        layer_s: a layer's latency beyond the roofline (launches, synchronisation), at the
            highest graphics clock.
        host_s: CPU time of a step at the highest CPU clock.
        host_serial: share of it during which the device waits.
        gather_s: that the host waits at most for a batch to fill (static batching); 0 where it
            lets requests in one by one up to a limit (continuous batching).
        ambient_c: around it.
        resistance_c_per_w: degrees above ambient a watt.
        thermal_s: time constant of its temperature.
        limit_c: temperature above which it lowers its clock.
        jitter: standard deviation of the logarithm of a token's latency.
        tail_share: share of token latencies that a stall hits.
        tail_factor: mean factor of those.
        switch_s: that a change of setting takes.
        meter_update_s: between updates of the energy counter.
        meter_noise: relative error of a window's energy, standard deviation.
    """

    name: str
    graphics_clocks_mhz: tuple[float, ...]
    memory_clocks_mhz: tuple[float, ...]
    cpu_clocks_mhz: tuple[float, ...]
    memory_bytes: float
    bandwidth_bytes_s: float
    flops_s: float
    power_limits_w: tuple[float, ...]
    voltage: Voltage
    base_w: float
    leak_w: float
    dynamic_w: float
    stall_activity: float
    gated_activity: float
    memory_idle_w: float
    memory_busy_w: float
    cpu_idle_w: float
    cpu_busy_w: float
    compute_efficiency: float
    memory_efficiency: float
    core_bandwidth: float
    roof_exponent: float
    tile: int
    layer_s: float
    host_s: float
    host_serial: float
    gather_s: float
    ambient_c: float
    resistance_c_per_w: float
    thermal_s: float
    limit_c: float
    jitter: float
    tail_share: float
    tail_factor: float
    switch_s: float
    meter_update_s: float
    meter_noise: float

    @property
    def max_graphics_mhz(self) -> float:
        """Highest graphics clock."""
        return self.graphics_clocks_mhz[-1]

    @property
    def max_memory_mhz(self) -> float:
        """Highest memory clock."""
        return self.memory_clocks_mhz[-1]

    @property
    def max_cpu_mhz(self) -> float:
        """Highest CPU clock."""
        return self.cpu_clocks_mhz[-1]
