"""The CPU as a device: threads and CPUs of this process, clock and power of the machine."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
import torch
from sysfs import clocks_khz, make_sysfs

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.cpu import CpuActuator
from flyball.integrations.hardware.cpu_levers import cpus_by_core, parse_cpus, steps_up_to


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return make_sysfs(tmp_path / "sys")


def test_the_space_begins_where_the_machine_stands(sysfs: Path, tmp_path: Path) -> None:
    actuator = CpuActuator(sysfs=sysfs, lock_dir=tmp_path)
    space = actuator.capabilities()
    standing = space.named(space.default)
    assert standing == actuator.read()
    assert standing == {
        "num_threads": float(torch.get_num_threads()),
        "num_cpus": float(len(os.sched_getaffinity(0))),
        "cpu_clock_mhz": 3000.0,
        "package_power_limit_w": 100.0,
    }
    assert [knob.kind for knob in space.knobs] == ["count", "count", "clock", "limit"]


def test_threads_and_cpus_are_set_and_put_back(tmp_path: Path) -> None:
    threads, cpus = torch.get_num_threads(), os.sched_getaffinity(0)
    with CpuActuator(sysfs=tmp_path, lock_dir=tmp_path) as actuator:
        most = actuator.capabilities().knobs[0].values[-1]
        actuator.apply({"num_threads": most, "num_cpus": 1.0})
        assert torch.get_num_threads() == int(most)
        assert len(os.sched_getaffinity(0)) == 1
        # All of it ends with the process.
        assert actuator.watchdog_pid is None
        assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == threads
    assert os.sched_getaffinity(0) == cpus


def test_affinity_is_every_threads_and_each_gets_its_own_back(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    tell, told = threading.Event(), threading.Event()

    def stay() -> None:
        os.sched_setaffinity(0, {cpus[-1]})
        told.set()
        tell.wait()

    other = threading.Thread(target=stay)
    other.start()
    told.wait()
    assert other.native_id is not None
    with CpuActuator(sysfs=tmp_path, lock_dir=tmp_path) as actuator:
        actuator.apply({"num_cpus": 1.0})
        assert os.sched_getaffinity(other.native_id) == {cpus[0]}
    assert os.sched_getaffinity(other.native_id) == {cpus[-1]}
    tell.set()
    other.join()


def test_a_clock_goes_only_as_far_as_each_domain_does(sysfs: Path, tmp_path: Path) -> None:
    with CpuActuator(sysfs=sysfs, lock_dir=tmp_path) as actuator:
        actuator.apply({"cpu_clock_mhz": 1000.0})
        actuator.apply({"cpu_clock_mhz": 3000.0})
        assert clocks_khz(sysfs) == (3_000_000, 2_500_000)


def test_power_is_never_raised_above_what_was_in_force(sysfs: Path, tmp_path: Path) -> None:
    actuator = CpuActuator(sysfs=sysfs, lock_dir=tmp_path)
    power = next(k for k in actuator.capabilities().knobs if k.name == "package_power_limit_w")
    assert max(map(float, power.values)) == 100.0
    assert min(map(float, power.values)) == pytest.approx(30.0)


def test_a_dry_run_says_what_it_would_set_and_sets_nothing(
    sysfs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    with (
        caplog.at_level(logging.INFO),
        CpuActuator(dry_run=True, sysfs=sysfs, lock_dir=locks) as actuator,
    ):
        assert actuator.apply({"cpu_clock_mhz": 1000.0}) == {"cpu_clock_mhz": 1000.0}
    assert "would set {'cpu_clock_mhz': 1000.0}" in caplog.text
    assert clocks_khz(sysfs) == (3_000_000, 2_500_000)
    assert not list(locks.iterdir())


def test_what_is_set_already_is_left_alone(sysfs: Path, tmp_path: Path) -> None:
    with CpuActuator(sysfs=sysfs, lock_dir=tmp_path) as actuator:
        assert actuator.apply({"cpu_clock_mhz": 1000.0}) == {"cpu_clock_mhz": 1000.0}
        assert actuator.apply({"cpu_clock_mhz": 1000.0}) == {}


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"cpu_clock_mhz": 1234.0}, "expected for cpu_clock_mhz one of .*, but got 1234.0"),
        ({"clock": 1000.0}, "expected one of the knobs num_threads, .*; got clock"),
    ],
)
def test_what_it_cannot_set_is_refused_before_anything_is_set(
    sysfs: Path, tmp_path: Path, named: dict[str, float], complaint: str
) -> None:
    with CpuActuator(sysfs=sysfs, lock_dir=tmp_path) as actuator:
        with pytest.raises(HardwareError, match=complaint):
            actuator.apply({"package_power_limit_w": 30.0, **named})
        assert actuator.read()["package_power_limit_w"] == 100.0


def test_a_machine_without_cpufreq_and_powercap_has_threads_and_cpus(tmp_path: Path) -> None:
    actuator = CpuActuator(sysfs=tmp_path, lock_dir=tmp_path)
    assert [knob.name for knob in actuator.capabilities().knobs] == ["num_threads", "num_cpus"]
    assert actuator.device == f"cpu of process {os.getpid()}"


def test_siblings_of_a_core_are_taken_after_all_cores(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    for cpu in allowed:
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        siblings = f"{allowed[1]},{cpu}" if cpu == allowed[0] else str(cpu)
        (folder / "thread_siblings_list").write_text(siblings)
    assert cpus_by_core(tmp_path)[-1] == allowed[0]


def test_lists_of_cpus_are_read_as_the_kernel_writes_them() -> None:
    assert parse_cpus("0-2,5\n") == [0, 1, 2, 5]


def test_counts_worth_trying_hold_both_ends_and_what_is_in_force() -> None:
    assert steps_up_to(4, 2) == [1, 2, 3, 4]
    assert steps_up_to(64, 50) == [1, 8, 16, 24, 32, 40, 48, 50, 56, 64]
