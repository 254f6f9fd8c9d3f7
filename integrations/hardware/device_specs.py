"""Four devices, with a source for every number; docs/throttle.md compares them with what is known.

[d] the vendor's data sheet; [s] steps that scripts and logs of such devices list; [p] published
measurements; [f] fitted, so that the figures in docs/throttle.md come out; [g] a guess: general
experience, nothing that was looked up.
"""

from __future__ import annotations

from flyball.integrations.hardware.device_spec import DeviceSpec, Voltage


def _steps(low: int, high: int, step: int) -> tuple[float, ...]:
    return tuple(float(clock) for clock in range(low, high + 1, step))


A100 = DeviceSpec(
    name="A100",
    graphics_clocks_mhz=_steps(210, 1410, 15),  # [d] SXM4
    memory_clocks_mhz=(1593.0,),  # [d] 80 GB
    cpu_clocks_mhz=(3000.0,),  # the server's, left alone
    memory_bytes=80e9,  # [d]
    bandwidth_bytes_s=2.039e12,  # [d]
    flops_s=312e12,  # [d]
    power_limits_w=(150.0, 200.0, 275.0, 400.0),  # [d] the highest
    # [f] flat to 1 GHz: sweet spots at 1,005 MHz (VoltanaLLM) and about 1,050 (throttLL'eM).
    voltage=Voltage(floor_v=0.75, kinks=((1005.0, 0.16), (1095.0, 0.22), (1260.0, 0.35))),
    base_w=30.0,  # [f] with the three below 50 W idle at low clocks, 75 W at the highest
    leak_w=24.0,  # [f]
    dynamic_w=320.0,  # [f] a large batch meets the limit of 400 W
    stall_activity=0.38,  # [f] decoding draws 250 to 320 W
    gated_activity=0.065,  # [f]
    memory_idle_w=14.0,  # [f]
    memory_busy_w=62.0,  # [g] 4 pJ a bit
    cpu_idle_w=0.0,  # the GPU's energy counter leaves the host out
    cpu_busy_w=0.0,
    compute_efficiency=0.62,  # [g]
    memory_efficiency=0.84,  # [g]
    core_bandwidth=1.55,  # [f] decoding slows little until about 1 GHz
    roof_exponent=3.0,  # [g]
    tile=16,  # [d] rows of a matrix instruction
    layer_s=16e-6,  # [g] some four dependent kernels
    host_s=2.4e-3,  # [g]
    host_serial=0.12,  # [g]
    gather_s=0.0,
    ambient_c=30.0,  # [g] as all of the cooling
    resistance_c_per_w=0.095,
    thermal_s=14.0,
    limit_c=85.0,
    jitter=0.035,  # [g] as all of the tail
    tail_share=0.006,
    tail_factor=1.35,
    switch_s=0.2,  # [p] throttLL'eM
    meter_update_s=0.1,  # [g] NVML's counter takes 20 to 100 ms
    meter_noise=0.006,  # [g]
)

H100 = DeviceSpec(
    name="H100",
    graphics_clocks_mhz=_steps(345, 1980, 15),  # [d] SXM5
    memory_clocks_mhz=(1593.0, 2619.0),  # [d] the higher; [g] the lower, which is the PCIe card's
    cpu_clocks_mhz=(3400.0,),
    memory_bytes=80e9,  # [d]
    bandwidth_bytes_s=3.35e12,  # [d]
    flops_s=989e12,  # [d]
    power_limits_w=(200.0, 325.0, 450.0, 700.0),  # [d] the highest
    # [f] a clock that costs 10% of the time saves up to a third (arXiv 2605.11999, H200).
    voltage=Voltage(
        floor_v=0.76, kinks=((1095.0, 0.10), (1290.0, 0.08), (1500.0, 0.13), (1800.0, 0.30))
    ),
    base_w=40.0,  # [f] with the three below 65 W idle at low clocks, 100 W at the highest
    leak_w=40.0,  # [f]
    dynamic_w=560.0,  # [f] a large batch meets the limit of 700 W
    stall_activity=0.20,  # [f] 267 W at batch 1 and up (api.serialalice.pt)
    gated_activity=0.04,  # [f]
    memory_idle_w=24.0,  # [f]
    memory_busy_w=110.0,  # [g] 4 pJ a bit
    cpu_idle_w=0.0,
    cpu_busy_w=0.0,
    compute_efficiency=0.58,  # [g]
    memory_efficiency=0.86,  # [g]
    core_bandwidth=1.75,  # [f]
    roof_exponent=3.4,  # [g]
    tile=16,  # [d]
    layer_s=13e-6,  # [g]
    host_s=2.0e-3,  # [g]
    host_serial=0.12,  # [g]
    gather_s=0.0,
    ambient_c=30.0,  # [g]
    resistance_c_per_w=0.062,
    thermal_s=12.0,
    limit_c=86.0,
    jitter=0.030,  # [g]
    tail_share=0.006,
    tail_factor=1.40,
    switch_s=0.2,  # [p] throttLL'eM, of an A100
    meter_update_s=0.05,  # [g]
    meter_noise=0.005,  # [g]
)

ORIN = DeviceSpec(
    name="Orin",
    # [s] AGX Orin: 13 graphics, 4 memory and 14 CPU clocks, of which each other.
    graphics_clocks_mhz=(
        *(114.75, 216.75, 318.75, 420.75, 522.75, 624.75, 726.75, 828.75, 930.75, 1032.75),
        *(1134.75, 1236.75, 1300.5),
    ),
    memory_clocks_mhz=(204.0, 665.6, 2133.0, 3199.0),
    cpu_clocks_mhz=(422.4, 729.6, 1036.8, 1344.0, 1651.2, 1958.4, 2201.6),
    memory_bytes=32e9,  # [d]
    bandwidth_bytes_s=204.8e9,  # [d]
    flops_s=42e12,  # [d] a quarter of the sparse 8-bit figure
    power_limits_w=(15.0, 30.0, 50.0, 60.0),  # [d] its power modes
    voltage=Voltage(floor_v=0.62, kinks=((520.0, 0.32), (1000.0, 0.38))),  # [f]
    base_w=3.0,  # [f]
    leak_w=1.6,  # [f]
    dynamic_w=33.0,  # [p] a stress draws 40 W on the rail of graphics and SoC (forum 323456)
    stall_activity=0.26,  # [f]
    gated_activity=0.03,  # [f]
    memory_idle_w=7.5,  # [f] the memory's clock alone saves 12 to 25% (PolyThrottle)
    memory_busy_w=4.0,  # [g]
    cpu_idle_w=2.2,  # [g]
    cpu_busy_w=5.0,  # [p] all twelve cores 15 W (same thread); decoding keeps a few busy
    compute_efficiency=0.50,  # [g]
    memory_efficiency=0.76,  # [g]
    core_bandwidth=1.70,  # [g]
    roof_exponent=2.6,  # [g]
    tile=8,  # [g]
    layer_s=48e-6,  # [g]
    host_s=5.5e-3,  # [g]
    host_serial=0.20,  # [g]
    gather_s=0.1,  # [g]
    ambient_c=27.0,  # [g]
    resistance_c_per_w=0.85,
    thermal_s=55.0,
    limit_c=88.0,
    jitter=0.045,  # [g]
    tail_share=0.008,
    tail_factor=1.45,
    switch_s=0.2,  # [g] as the others'
    meter_update_s=0.05,  # [g]
    meter_noise=0.012,  # [g]
)

TX2 = DeviceSpec(
    name="TX2",
    # [s] 13 graphics clocks, 12 CPU clocks, of which 7; [s] the upper four of the memory's and
    # [g] the lower seven.
    graphics_clocks_mhz=(
        *(114.75, 216.75, 318.75, 420.75, 522.75, 624.75, 726.75, 854.25, 930.75, 1032.75),
        *(1122.0, 1236.75, 1300.5),
    ),
    memory_clocks_mhz=(
        *(40.8, 68.0, 102.0, 204.0, 408.0, 665.6, 800.0),
        *(1062.4, 1331.2, 1600.0, 1866.0),
    ),
    cpu_clocks_mhz=(345.6, 652.8, 960.0, 1267.2, 1574.4, 1881.6, 2035.2),
    memory_bytes=8e9,  # [d]
    bandwidth_bytes_s=59.7e9,  # [d]
    flops_s=1.33e12,  # [d] 256 Pascal cores, 16 bits
    power_limits_w=(7.5, 10.0, 15.0),  # [d] its modes are of 7.5 and 15 W
    voltage=Voltage(floor_v=0.80, kinks=((520.0, 0.22), (905.0, 0.45))),  # [f]
    base_w=0.5,  # [f] with the memory's interface 2.3 W (tegrastats in gist fa30ba54)
    leak_w=0.2,  # [p] the graphics rail idle at 1,300 MHz: 0.23 W (same gist)
    dynamic_w=8.6,  # [f] 11 to 12 W in all where arithmetic is busy
    stall_activity=0.28,  # [f]
    gated_activity=0.01,  # [p] as leakage
    memory_idle_w=2.1,  # [f] as the base
    memory_busy_w=1.4,  # [g]
    cpu_idle_w=0.4,  # [g]
    cpu_busy_w=2.4,  # [p] six cores at three quarters 3.4 W (same gist); decoding keeps a few busy
    compute_efficiency=0.55,  # [g]
    memory_efficiency=0.70,  # [g]
    core_bandwidth=1.60,  # [g]
    roof_exponent=2.4,  # [g]
    tile=4,  # [g]
    layer_s=95e-6,  # [g]
    host_s=9e-3,  # [g]
    host_serial=0.25,  # [g]
    gather_s=0.15,  # [g]
    ambient_c=27.0,  # [g]
    resistance_c_per_w=2.6,
    thermal_s=70.0,
    limit_c=85.0,
    jitter=0.050,  # [g]
    tail_share=0.008,
    tail_factor=1.50,
    switch_s=0.2,  # [g] as the others'
    meter_update_s=0.02,  # [g]
    meter_noise=0.018,  # [g]
)

DEVICES = {spec.name: spec for spec in (A100, H100, ORIN, TX2)}
