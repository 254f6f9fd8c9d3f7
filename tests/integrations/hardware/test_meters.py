"""Meters count up, say what they count, and admit what they do not know."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_nvml import GPU_IS_LOST, State
from sysfs import make_sysfs, set_energy_uj

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.cpu_seconds import CpuSeconds, cpu_meter
from flyball.integrations.hardware.null import NullMeter
from flyball.integrations.hardware.nvml_library import Gpu
from flyball.integrations.hardware.nvml_meter import NvmlMeter, nvml_meter
from flyball.integrations.hardware.power_integral import PowerIntegral
from flyball.integrations.hardware.rapl import RaplMeter


def test_nvml_counts_joules(gpu_state: State) -> None:
    meter = nvml_meter(Gpu())
    before = meter.energy_j()
    gpu_state.energy += 2_500
    assert meter.energy_j() - before == pytest.approx(2.5)
    assert meter.kind == "joules by NVML"


def test_a_counter_that_jumps_back_costs_one_window_and_is_logged_once(
    gpu_state: State, caplog: pytest.LogCaptureFixture
) -> None:
    meter = NvmlMeter(Gpu())
    for _ in range(2):
        before = meter.energy_j()
        gpu_state.energy = 1_000
        assert math.isnan(meter.energy_j() - before)
        before = meter.energy_j()
        gpu_state.energy += 4_000
        assert meter.energy_j() - before == pytest.approx(4.0)
    assert meter.num_jumps == 2
    assert caplog.text.count("jumped back") == 1


def test_power_is_integrated_where_the_gpu_counts_no_energy(gpu_state: State) -> None:
    gpu_state.energy_supported = 0
    meter = nvml_meter(Gpu())
    assert isinstance(meter, PowerIntegral)
    assert meter.kind == "joules by NVML, from sampled power"
    before = meter.energy_j()
    assert meter.energy_j() > before
    meter.close()


def test_a_gpu_that_shows_neither_energy_nor_power_has_no_meter(gpu_state: State) -> None:
    gpu_state.energy_supported = gpu_state.power_supported = 0
    assert isinstance(nvml_meter(Gpu()), NullMeter)


def test_power_between_samples_is_taken_to_change_evenly() -> None:
    now_s, power_w = 0.0, 100.0
    meter = PowerIntegral(lambda: power_w, "watts", lambda: now_s, period_s=3600.0)
    now_s, power_w = 2.0, 200.0
    assert meter.energy_j() == pytest.approx(300.0)
    now_s = 3.0
    assert meter.energy_j() == pytest.approx(500.0)
    meter.close()


def test_power_is_sampled_between_readings_until_it_is_closed() -> None:
    sampled = threading.Semaphore(0)

    def power_w() -> float:
        sampled.release()
        return 1.0

    meter = PowerIntegral(power_w, "watts", period_s=0.001)
    meter.energy_j()
    for _ in range(20):
        assert sampled.acquire(timeout=60)
    meter.close()
    assert not any(thread.name == "flyball-power" for thread in threading.enumerate())


def test_a_lost_gpu_has_no_energy(gpu_state: State) -> None:
    meter = NvmlMeter(Gpu())
    gpu_state.read_error = GPU_IS_LOST
    with pytest.raises(HardwareError, match="the GPU is lost"):
        meter.energy_j()


def test_rapl_counts_packages_across_the_end_of_their_range(tmp_path: Path) -> None:
    sysfs = make_sysfs(tmp_path)
    meter = RaplMeter(sysfs)
    set_energy_uj(sysfs, 4_900_000)
    assert meter.energy_j() == pytest.approx(3.9)
    set_energy_uj(sysfs, 100_000)
    assert meter.energy_j() == pytest.approx(4.1)


def test_cpu_seconds_stand_in_where_rapl_is_not_there(tmp_path: Path) -> None:
    assert isinstance(cpu_meter(make_sysfs(tmp_path / "with")), RaplMeter)
    meter = cpu_meter(tmp_path)
    assert isinstance(meter, CpuSeconds)
    assert meter.kind == "CPU seconds, for want of a meter"
    before = meter.energy_j()
    sum(range(1_000_000))
    assert meter.energy_j() > before


def test_cpu_seconds_of_a_process_that_still_runs_are_counted_once() -> None:
    spins = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    meter = CpuSeconds()
    before = meter.energy_j()
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spins!r}])"
    with subprocess.Popen([sys.executable, "-c", nested], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        running_s = meter.energy_j() - before
        process.communicate(b"\n")
    assert running_s > 0.45
    assert meter.energy_j() - before == pytest.approx(running_s, abs=0.3)


def test_counters_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    sysfs = make_sysfs(tmp_path)
    meter = RaplMeter(sysfs)
    (sysfs / "class/powercap/intel-rapl:0/energy_uj").write_text("none")
    with pytest.raises(HardwareError, match="energy_uj: expected a number"):
        meter.energy_j()


def test_no_meter_knows_no_energy(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert math.isnan(NullMeter().energy_j())
