"""Whatever ends a governor, the device is put back as it was; and it has one governor at a time.

Real processes on a folder of files. Nothing is polled: tests wait for the ends of processes.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sysfs import clocks_khz, make_sysfs

from flyball.controller.errors import DeviceBusyError, HardwareError
from flyball.integrations.hardware.cpu import CpuActuator

BEFORE = (3_000_000, 2_500_000)
GOVERNED = (1_000_000, 1_000_000)
PATIENCE_S = 60

Process = subprocess.Popen[str]


def wait_for(pid_fd: int) -> None:
    """Until the process of a descriptor is dead."""
    ended, _, _ = select.select([pid_fd], [], [], PATIENCE_S)
    os.close(pid_fd)
    assert ended


class Governed:
    """A process that has lowered the clock."""

    def __init__(self, sysfs: Path, locks: Path) -> None:
        script = Path(__file__).with_name("governed.py")
        self.process = subprocess.Popen(
            [sys.executable, script, sysfs, locks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.watchdog = os.pidfd_open(self.said())
        assert clocks_khz(sysfs) == GOVERNED

    def said(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return int(line)

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """Exit status and standard error, once the process and its watchdog are dead."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        wait_for(self.watchdog)
        return self.process.returncode, errors


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return make_sysfs(tmp_path / "sys", BEFORE)


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    return folder


@pytest.fixture
def govern(sysfs: Path, locks: Path) -> Iterator[Callable[[], Governed]]:
    governors: list[Governed] = []

    def start() -> Governed:
        governors.append(Governed(sysfs, locks))
        return governors[-1]

    yield start
    for governor in governors:
        governor.process.kill()
        governor.process.communicate()


def test_leaving_it_puts_the_clocks_back_each_to_its_own(
    sysfs: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    governor.tell("leave")
    status, errors = governor.ended()
    assert (status, errors) == (0, "")
    assert clocks_khz(sysfs) == BEFORE


def test_an_exception_puts_the_clocks_back(sysfs: Path, govern: Callable[[], Governed]) -> None:
    governor = govern()
    governor.tell("raise")
    status, errors = governor.ended()
    assert status == 1
    assert "as told" in errors
    assert clocks_khz(sysfs) == BEFORE


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name
)
@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_a_signal_puts_the_clocks_back(
    sysfs: Path, govern: Callable[[], Governed], number: signal.Signals, whole_group: bool
) -> None:
    governor = govern()
    send = os.killpg if whole_group else os.kill
    send(governor.process.pid, number)
    status, _ = governor.ended()
    assert status == -number
    assert clocks_khz(sysfs) == BEFORE


@pytest.mark.parametrize("num_changes", [1, 10, 101])
def test_a_kill_amid_changes_puts_the_clocks_back(
    sysfs: Path, govern: Callable[[], Governed], num_changes: int
) -> None:
    governor = govern()
    governor.tell("change")
    while governor.said() < num_changes:
        pass
    governor.process.kill()
    governor.ended()
    assert clocks_khz(sysfs) == BEFORE


def test_a_process_that_ends_without_restoring_is_restored(
    sysfs: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    governor.tell("forget")
    status, _ = governor.ended()
    assert status == 0
    assert clocks_khz(sysfs) == BEFORE


def test_signals_to_the_watchdog_before_the_kill_change_nothing(
    sysfs: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.pidfd_send_signal(governor.watchdog, number)
    assert clocks_khz(sysfs) == GOVERNED
    governor.process.kill()
    governor.ended()
    assert clocks_khz(sysfs) == BEFORE


def test_a_second_governor_is_refused_with_the_first_ones_process_id(
    sysfs: Path, locks: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    with pytest.raises(DeviceBusyError, match=f"by process {governor.process.pid};"):
        CpuActuator(sysfs=sysfs, lock_dir=locks)
    assert clocks_khz(sysfs) == GOVERNED


def test_a_second_governor_in_the_same_process_is_refused(sysfs: Path, locks: Path) -> None:
    first = CpuActuator(sysfs=sysfs, lock_dir=locks)
    second = CpuActuator(sysfs=sysfs, lock_dir=locks)
    with first, second:
        first.apply({"cpu_clock_mhz": 1000.0})
        with pytest.raises(DeviceBusyError, match=f"by process {os.getpid()};"):
            second.apply({"cpu_clock_mhz": 2000.0})
    assert clocks_khz(sysfs) == BEFORE


def test_the_lock_of_a_dead_process_is_taken_over(
    sysfs: Path, locks: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    governor.process.kill()
    governor.ended()
    with CpuActuator(sysfs=sysfs, lock_dir=locks) as actuator:
        actuator.apply({"cpu_clock_mhz": 2000.0})
        assert clocks_khz(sysfs) == (2_000_000, 2_000_000)
    assert clocks_khz(sysfs) == BEFORE


def test_what_a_governor_left_whose_watchdog_was_killed_too_is_put_back_by_the_next(
    sysfs: Path, locks: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    signal.pidfd_send_signal(governor.watchdog, signal.SIGKILL)
    governor.process.kill()
    governor.process.communicate()
    assert clocks_khz(sysfs) == GOVERNED
    with CpuActuator(sysfs=sysfs, lock_dir=locks) as actuator:
        assert clocks_khz(sysfs) == BEFORE
        clock = actuator.capabilities().knobs[2]
        assert clock.values[clock.default] == 3000.0


def test_a_watchdog_that_was_killed_is_replaced_before_the_next_change(
    sysfs: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    signal.pidfd_send_signal(governor.watchdog, signal.SIGKILL)
    wait_for(governor.watchdog)
    governor.tell("again")
    governor.watchdog = os.pidfd_open(governor.said())
    governor.process.kill()
    governor.ended()
    assert clocks_khz(sysfs) == BEFORE


def test_a_forked_process_neither_restores_nor_keeps_the_device(
    sysfs: Path, locks: Path, govern: Callable[[], Governed]
) -> None:
    governor = govern()
    governor.tell("fork")
    child = os.pidfd_open(governor.said())
    assert clocks_khz(sysfs) == GOVERNED
    governor.process.kill()
    wait_for(governor.watchdog)
    assert clocks_khz(sysfs) == BEFORE
    CpuActuator(sysfs=sysfs, lock_dir=locks)  # the device is free, though the child lives
    signal.pidfd_send_signal(child, signal.SIGKILL)
    wait_for(child)


def test_what_cannot_be_put_back_is_named_and_left_to_the_next_governor(
    sysfs: Path, locks: Path
) -> None:
    file = sysfs / "devices/system/cpu/cpufreq/policy0/scaling_max_freq"
    actuator = CpuActuator(sysfs=sysfs, lock_dir=locks)
    actuator.apply({"cpu_clock_mhz": 1000.0})
    file.unlink()
    file.mkdir()
    with pytest.raises(HardwareError, match="could not be put back.*policy0"):
        actuator.restore()
    file.rmdir()
    file.touch()
    assert clocks_khz_of(sysfs, 1) == BEFORE[1]
    file.write_text("1000000")
    CpuActuator(sysfs=sysfs, lock_dir=locks)
    assert clocks_khz(sysfs) == BEFORE


def clocks_khz_of(sysfs: Path, domain: int) -> int:
    file = sysfs / f"devices/system/cpu/cpufreq/policy{domain}/scaling_max_freq"
    return int(file.read_text())


def test_orders_that_others_could_have_written_are_not_carried_out(
    sysfs: Path, locks: Path
) -> None:
    planted = locks / "flyball-cpu.lock"
    victim = locks / "victim"
    order = f'{{"order": "WriteFile", "path": "{victim}", "text": "x"}}'
    planted.write_text(f'{{"pid": 1, "orders": [{order}]}}')
    planted.chmod(0o666)
    with pytest.raises(HardwareError, match="remove it"):
        CpuActuator(sysfs=sysfs, lock_dir=locks)
    assert not victim.exists()


def test_locks_lie_where_the_environment_says(
    sysfs: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYBALL_LOCK_DIR", str(locks))
    CpuActuator(sysfs=sysfs)
    assert [path.name for path in locks.iterdir()] == ["flyball-cpu.lock"]
    monkeypatch.setenv("FLYBALL_LOCK_DIR", str(locks / "missing"))
    with pytest.raises(HardwareError, match="cannot open its lock file .*missing"):
        CpuActuator(sysfs=sysfs)


def test_a_device_can_be_taken_again_after_it_was_restored(sysfs: Path, locks: Path) -> None:
    with CpuActuator(sysfs=sysfs, lock_dir=locks) as actuator:
        for _ in range(2):
            actuator.apply({"cpu_clock_mhz": 2000.0})
            actuator.restore()
            assert clocks_khz(sysfs) == BEFORE


def test_an_interrupted_restore_is_finished_by_the_next_or_the_watchdog(
    sysfs: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actuator = CpuActuator(sysfs=sysfs, lock_dir=locks)
    actuator.apply({"cpu_clock_mhz": 1000.0})
    write_text = Path.write_text

    def interrupt(path: Path, *args: Any, **kwargs: Any) -> int:
        monkeypatch.setattr(Path, "write_text", write_text)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        actuator.restore()
    assert clocks_khz(sysfs) == GOVERNED
    assert actuator.watchdog_pid is not None
    actuator.restore()
    assert clocks_khz(sysfs) == BEFORE
    assert actuator.watchdog_pid is None


def test_nothing_is_changed_where_no_watchdog_can_start(
    sysfs: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(locks / "missing"))
    with (
        CpuActuator(sysfs=sysfs, lock_dir=locks) as actuator,
        pytest.raises(HardwareError, match="cannot start the watchdog.*nothing was changed"),
    ):
        actuator.apply({"cpu_clock_mhz": 1000.0})
    assert clocks_khz(sysfs) == BEFORE
