"""A GPU through NVML: what it offers, what goes wrong, and how it is put back.

NVML is a double at its C boundary (`fake_nvml`); nvidia-ml-py is the real one.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, NO_PERMISSION, NOT_SUPPORTED, State

from flyball.controller.errors import (
    DeviceBusyError,
    HardwareError,
    HardwarePermissionError,
    NotSupportedError,
)
from flyball.integrations.hardware.nvml import NvmlActuator
from flyball.integrations.hardware.nvml_library import may_set

SLOWEST = {"graphics_clock_mhz": 510.0, "memory_clock_mhz": 1593.0, "power_limit_w": 200.0}


def actuator(tmp_path: Path, **settings: Any) -> NvmlActuator:
    return NvmlActuator(lock_dir=tmp_path, **{"dry_run": False, **settings})


def in_force(state: State) -> tuple[int, int, int]:
    return state.graphics_lock, state.memory_lock, state.power_limit


def test_the_space_holds_what_the_gpu_supports_in_all_combinations(
    gpu_state: State, tmp_path: Path
) -> None:
    knobs = {knob.name: knob for knob in actuator(tmp_path).capabilities().knobs}
    # 210 MHz goes with one memory clock only; 100 MHz of memory is an idle clock.
    assert knobs["graphics_clock_mhz"].values == (510.0, 1005.0, 1500.0, 1965.0, 1980.0)
    assert knobs["memory_clock_mhz"].values == (1593.0, 2619.0)
    assert (knobs["power_limit_w"].values[0], knobs["power_limit_w"].values[-1]) == (200.0, 600.0)
    space = actuator(tmp_path).capabilities()
    assert space.named(space.default) == {
        "graphics_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "power_limit_w": 600.0,
    }


def test_few_clocks_are_spread_over_the_range(gpu_state: State, tmp_path: Path) -> None:
    clocks = actuator(tmp_path, num_clocks=3).capabilities().knobs[0].values
    assert clocks == (510.0, 1500.0, 1980.0)


def test_a_gpu_that_shows_little_offers_little(gpu_state: State, tmp_path: Path) -> None:
    gpu_state.clocks_supported = gpu_state.power_supported = 0
    few = actuator(tmp_path)
    assert [knob.name for knob in few.capabilities().knobs] == ["power_limit_w"]
    assert few.read() == {"power_limit_w": 600.0, "temperature_c": 51.0}


def test_readings_have_their_units(gpu_state: State, tmp_path: Path) -> None:
    assert actuator(tmp_path).read() == {
        "graphics_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "power_limit_w": 600.0,
        "power_w": 350.5,
        "temperature_c": 51.0,
    }


def test_it_sets_nothing_unless_asked_to(gpu_state: State, tmp_path: Path) -> None:
    with NvmlActuator(lock_dir=tmp_path) as dry:
        assert dry.apply(SLOWEST) == SLOWEST
    assert gpu_state.num_sets == 0


def test_what_is_set_is_put_back_to_what_was_in_force_not_to_the_default(
    gpu_state: State, tmp_path: Path
) -> None:
    with actuator(tmp_path) as governed:
        governed.apply(SLOWEST)
        assert in_force(gpu_state) == (510, 1593, 200_000)
    assert in_force(gpu_state) == (0, 0, 600_000)


def test_the_highest_clock_is_no_lock(gpu_state: State, tmp_path: Path) -> None:
    with actuator(tmp_path) as governed:
        governed.apply(SLOWEST)
        governed.apply({"graphics_clock_mhz": 1980.0})
        assert gpu_state.graphics_lock == 0


def test_a_killed_governor_is_undone_by_its_watchdog(gpu_state: State, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from flyball.integrations.hardware.nvml import NvmlActuator\n"
        f"actuator = NvmlActuator(dry_run=False, lock_dir=Path({str(tmp_path)!r}))\n"
        f"actuator.apply({SLOWEST!r})\n"
        "print(actuator.watchdog_pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    governor = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert governor.stdout is not None
    watchdog = os.pidfd_open(int(governor.stdout.readline()))
    assert in_force(gpu_state) == (510, 1593, 200_000)
    with pytest.raises(DeviceBusyError, match=f"process {governor.pid}"):
        actuator(tmp_path)
    governor.kill()
    ended, _, _ = select.select([watchdog], [], [], 60)
    governor.communicate()
    os.close(watchdog)
    assert ended
    assert in_force(gpu_state) == (0, 0, 600_000)


def test_without_a_driver_one_line_says_so(gpu_state: State, tmp_path: Path) -> None:
    gpu_state.init_error = DRIVER_NOT_LOADED
    with pytest.raises(HardwareError, match="no NVIDIA driver is here"):
        actuator(tmp_path)


def test_without_the_library_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pynvml = pytest.importorskip("pynvml")

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(HardwareError, match="no NVIDIA driver is here"):
        actuator(tmp_path)


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(HardwareError, match=r"install flyball\[gpu\]"):
        actuator(tmp_path)


def test_there_is_no_such_gpu(gpu_state: State, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="GPU 7: GetHandleByIndex"):
        actuator(tmp_path, index=7)


def test_without_permission_the_right_is_named_and_telemetry_works(
    gpu_state: State, tmp_path: Path
) -> None:
    gpu_state.set_error = NO_PERMISSION
    with actuator(tmp_path) as governed:
        with pytest.raises(HardwarePermissionError, match="root, or the capability SYS_ADMIN"):
            governed.apply(SLOWEST)
        assert governed.read()["power_w"] == 350.5
    assert gpu_state.num_sets == 0


def test_what_was_not_changed_is_not_put_back(gpu_state: State, tmp_path: Path) -> None:
    gpu_state.graphics_lock = 1500  # somebody's, which NVML does not show
    with actuator(tmp_path) as governed:
        governed.apply({"power_limit_w": 200.0})
    assert in_force(gpu_state) == (1500, 0, 600_000)


def test_a_clock_that_is_not_supported_is_refused_before_anything_is_set(
    gpu_state: State, tmp_path: Path
) -> None:
    with actuator(tmp_path) as governed:
        with pytest.raises(HardwareError, match="expected for graphics_clock_mhz one of"):
            governed.apply({"power_limit_w": 200.0, "graphics_clock_mhz": 1234.0})
        assert gpu_state.num_sets == 0


def test_a_gpu_that_cannot_lock_clocks_names_the_knob(gpu_state: State, tmp_path: Path) -> None:
    governed = actuator(tmp_path)
    gpu_state.set_error = NOT_SUPPORTED
    with pytest.raises(NotSupportedError, match="SetMemoryLockedClocks.*leave the knob out"):
        governed.apply({"memory_clock_mhz": 1593.0})
    governed.restore()


def test_a_lost_gpu_is_named_and_left_to_the_next_governor(
    gpu_state: State, tmp_path: Path
) -> None:
    governed = actuator(tmp_path)
    governed.apply(SLOWEST)
    gpu_state.read_error = GPU_IS_LOST
    with pytest.raises(HardwareError, match="the GPU is lost"):
        governed.read()
    with pytest.raises(HardwareError, match="could not be put back as it was: .*the GPU is lost"):
        governed.restore()
    gpu_state.read_error = 0
    actuator(tmp_path)
    assert in_force(gpu_state) == (0, 0, 600_000)


def test_knobs_are_offered_as_asked(gpu_state: State, tmp_path: Path) -> None:
    space = actuator(tmp_path, knobs=["power_limit_w"]).capabilities()
    assert [knob.name for knob in space.knobs] == ["power_limit_w"]
    with pytest.raises(HardwareError, match="expected knobs of .* but got fan"):
        actuator(tmp_path, knobs=["fan"])


def test_the_right_to_set_is_roots_or_sys_admins() -> None:
    assert may_set(euid=0, status="")
    assert may_set(euid=1000, status="Name:\tx\nCapEff:\t0000000000200000\n")
    assert not may_set(euid=1000, status="Name:\tx\nCapEff:\t00000000ffdfffff\n")
    assert not may_set(euid=1000, status="")
