"""Four devices, with a source for every number; docs/throttle.md compares them with what is known.

[d] a data sheet or the vendor's documentation; [m] published measurements; [f] fitted so that the
figures in docs/throttle.md come out; [g] a guess at what nothing tells.
"""

from __future__ import annotations

from flyball.integrations.hardware.device_spec import DeviceSpec, Voltage


def _steps(low: int, high: int, step: int) -> tuple[float, ...]:
    return tuple(float(clock) for clock in range(low, high + 1, step))


A100 = DeviceSpec(
    name="A100",
    # [d] SXM4 80 GB: 210 to 1410 MHz by 15, memory at 1593 only, 2.04 TB/s, 312 TFLOPS, 400 W.
    graphics_clocks_mhz=_steps(210, 1410, 15),
    memory_clocks_mhz=(1593.0,),
    cpu_clocks_mhz=(3000.0,),
    memory_bytes=80e9,
    bandwidth_bytes_s=2.039e12,
    flops_s=312e12,
    power_limits_w=(150.0, 200.0, 275.0, 400.0),
    # [f] flat to about 1 GHz and steep from there: sweet spots at 1,005 to 1,050 MHz (VoltanaLLM,
    # throttLL'eM).
    voltage=Voltage(floor_v=0.75, kinks=((1005.0, 0.16), (1095.0, 0.22), (1260.0, 0.35))),
    base_w=30.0,  # [f] with leakage and memory 55 to 60 W idle at low clocks
    leak_w=24.0,  # [f]
    dynamic_w=320.0,  # [f] reaches 400 W where arithmetic and memory are both busy
    stall_activity=0.38,  # [f] decoding draws 200 to 300 W
    gated_activity=0.065,  # [f]
    memory_idle_w=14.0,  # [f]
    memory_busy_w=62.0,  # [m] HBM2e takes about 4 pJ a bit
    cpu_idle_w=0.0,  # the energy counter leaves the host out
    cpu_busy_w=0.0,
    compute_efficiency=0.62,  # [m] model FLOPs utilisation of large matrix products
    memory_efficiency=0.84,  # [m] of the best copies
    core_bandwidth=1.55,  # [f] bandwidth falls off below about 900 MHz
    roof_exponent=3.0,  # [g]
    tile=16,  # [d] rows of a tensor core's instruction
    layer_s=16e-6,  # [g] about four dependent kernels a layer
    host_s=2.4e-3,  # [m] vLLM's scheduling and sampling a step
    host_serial=0.12,  # [g]
    gather_s=0.0,
    ambient_c=30.0,
    resistance_c_per_w=0.095,  # [g] 68 degrees at 400 W
    thermal_s=14.0,
    limit_c=85.0,
    jitter=0.035,
    tail_share=0.006,
    tail_factor=1.35,
    switch_s=0.2,  # [m] throttLL'eM
    meter_update_s=0.1,  # [m] NVML on A100
    meter_noise=0.006,
)

H100 = DeviceSpec(
    name="H100",
    # [d] SXM5: 345 to 1980 MHz by 15, memory at 2619, 3.35 TB/s, 989 TFLOPS, 700 W; the lower
    # memory clock is the PCIe card's.
    graphics_clocks_mhz=_steps(345, 1980, 15),
    memory_clocks_mhz=(1593.0, 2619.0),
    cpu_clocks_mhz=(3400.0,),
    memory_bytes=80e9,
    bandwidth_bytes_s=3.35e12,
    flops_s=989e12,
    power_limits_w=(200.0, 325.0, 450.0, 700.0),
    voltage=Voltage(
        floor_v=0.76, kinks=((1095.0, 0.10), (1290.0, 0.08), (1500.0, 0.13), (1800.0, 0.30))
    ),
    base_w=40.0,
    leak_w=40.0,
    dynamic_w=560.0,
    stall_activity=0.2,
    gated_activity=0.04,
    memory_idle_w=24.0,
    memory_busy_w=110.0,
    cpu_idle_w=0.0,
    cpu_busy_w=0.0,
    compute_efficiency=0.58,
    memory_efficiency=0.86,
    core_bandwidth=1.75,
    roof_exponent=3.4,
    tile=16,
    layer_s=13e-6,
    host_s=2.0e-3,
    host_serial=0.12,
    gather_s=0.0,
    ambient_c=30.0,
    resistance_c_per_w=0.062,
    thermal_s=12.0,
    limit_c=86.0,
    jitter=0.030,
    tail_share=0.006,
    tail_factor=1.40,
    switch_s=0.2,
    meter_update_s=0.05,
    meter_noise=0.005,
)

ORIN = DeviceSpec(
    name="Orin",
    # [d] AGX Orin, 13 graphics, 4 memory and 7 of its CPU clocks: with 5 batch sizes the 1,820
    # points of PolyThrottle. 204.8 GB/s; 2,048 Ampere cores: 10.6 TFLOPS of vectors, 42 of
    # matrices.
    graphics_clocks_mhz=(
        114.75,
        216.75,
        318.75,
        420.75,
        522.75,
        624.75,
        675.75,
        828.75,
        930.75,
        1032.75,
        1134.75,
        1236.75,
        1300.5,
    ),
    memory_clocks_mhz=(204.0, 665.6, 2133.0, 3199.0),
    cpu_clocks_mhz=(422.4, 729.6, 1036.8, 1344.0, 1651.2, 1958.4, 2201.6),
    memory_bytes=32e9,
    bandwidth_bytes_s=204.8e9,
    flops_s=42e12,
    power_limits_w=(15.0, 30.0, 50.0, 60.0),
    voltage=Voltage(floor_v=0.62, kinks=((520.0, 0.32), (1000.0, 0.38))),
    base_w=3.0,
    leak_w=1.6,
    dynamic_w=33.0,  # [m] a stress of the graphics part draws 40 W on the rail (vendor's forum)
    stall_activity=0.26,
    gated_activity=0.03,
    memory_idle_w=7.5,
    memory_busy_w=4.0,
    cpu_idle_w=2.2,
    cpu_busy_w=5.0,  # [m] all twelve cores 15 W (same thread); decoding keeps a few busy
    compute_efficiency=0.50,
    memory_efficiency=0.76,
    core_bandwidth=1.70,
    roof_exponent=2.6,
    tile=8,
    layer_s=48e-6,
    host_s=5.5e-3,
    host_serial=0.20,
    gather_s=0.1,
    ambient_c=27.0,
    resistance_c_per_w=0.85,
    thermal_s=55.0,
    limit_c=88.0,
    jitter=0.045,
    tail_share=0.008,
    tail_factor=1.45,
    switch_s=0.2,
    meter_update_s=0.05,
    meter_noise=0.012,
)

TX2 = DeviceSpec(
    name="TX2",
    # [d] 13 graphics and 11 memory clocks, 7 of 12 CPU clocks: with 5 batch sizes the 5,005 points
    # of PolyThrottle. 59.7 GB/s; 256 Pascal cores: 1.33 TFLOPS in 16 bits. 7.5 and 15 W modes.
    graphics_clocks_mhz=(
        114.75,
        216.75,
        318.75,
        420.75,
        522.75,
        624.75,
        675.75,
        828.75,
        905.25,
        1032.75,
        1122.0,
        1236.75,
        1300.5,
    ),
    memory_clocks_mhz=(
        40.8,
        68.0,
        102.0,
        204.0,
        408.0,
        665.6,
        800.0,
        1062.4,
        1331.2,
        1600.0,
        1866.0,
    ),
    cpu_clocks_mhz=(345.6, 652.8, 960.0, 1267.2, 1574.4, 1881.6, 2035.2),
    memory_bytes=8e9,
    bandwidth_bytes_s=59.7e9,
    flops_s=1.33e12,
    power_limits_w=(7.5, 10.0, 15.0),
    voltage=Voltage(floor_v=0.80, kinks=((520.0, 0.22), (905.0, 0.45))),
    base_w=0.5,
    leak_w=0.2,
    dynamic_w=8.6,
    stall_activity=0.28,
    gated_activity=0.01,
    memory_idle_w=2.1,
    memory_busy_w=1.4,
    cpu_idle_w=0.4,
    cpu_busy_w=2.4,
    compute_efficiency=0.55,
    memory_efficiency=0.70,
    core_bandwidth=1.60,
    roof_exponent=2.4,
    tile=4,
    layer_s=95e-6,
    host_s=9e-3,
    host_serial=0.25,
    gather_s=0.15,
    ambient_c=27.0,
    resistance_c_per_w=2.6,
    thermal_s=70.0,
    limit_c=85.0,
    jitter=0.050,
    tail_share=0.008,
    tail_factor=1.50,
    switch_s=0.2,
    meter_update_s=0.02,
    meter_noise=0.018,
)

DEVICES = {spec.name: spec for spec in (A100, H100, ORIN, TX2)}
