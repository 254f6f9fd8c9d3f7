"""What actuators have in common: knobs are levers, and a device is held while it is changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from flyball.controller.errors import HardwareError, HardwarePermissionError, NotSupportedError
from flyball.integrations.hardware.held import Held
from flyball.integrations.hardware.lock import DeviceLock, ProcessLock
from flyball.integrations.hardware.orders import Undo
from flyball.policies.throttle.space import Knob, Space, Value

logger = logging.getLogger(__name__)


class Lever(Protocol):
    """One knob, and how it is turned."""

    @property
    def knob(self) -> Knob:
        """What it can be set to; its default is what was in force when the lever was made."""

    @property
    def slow(self) -> bool:
        """Whether turning it takes longer than decoding can wait."""

    def read(self) -> Value:
        """What is in force.

        Raises:
            HardwareError: in one line.
        """

    def write(self, value: Value) -> None:
        """Set one of the knob's values.

        Raises:
            HardwareError: in one line.
        """

    def undos(self) -> Sequence[Undo]:
        """What puts back what is in force now: `Order`s where it outlives this process."""


class LeverActuator:
    """An actuator made of levers; see `controller.hardware.Actuator`.

    Before the first change it takes the device's lock, notes how to put everything back, and
    starts a watchdog that does so if this process is killed. As a context manager it puts
    everything back when it is left, by an exception or Ctrl-C as well.

    Args:
        device: what it sets, for people and for the lock.
        levers: its knobs.
        dry_run: log what would be set, and set nothing.
        of_process: whether all of it belongs to this process, and ends with it.
        lock_dir: folder of lock files; None for that of the machine.

    Attributes:
        denied: what cannot be set for want of a right, a line each.
    """

    def __init__(
        self,
        device: str,
        levers: Sequence[Lever],
        dry_run: bool = False,
        of_process: bool = False,
        lock_dir: Path | None = None,
    ) -> None:
        self.device = device
        self.dry_run = dry_run
        self.denied: list[str] = []
        self._levers = {lever.knob.name: lever for lever in levers}
        self._of_process = of_process
        self._lock_dir = lock_dir
        self._set: dict[str, Value] = {}
        self._held: Held | None = None
        self._turn = threading.RLock()

    @property
    def slow_knobs(self) -> frozenset[str]:
        """Names of knobs that take longer to set than decoding can wait."""
        return frozenset(name for name, lever in self._levers.items() if lever.slow)

    @property
    def watchdog_pid(self) -> int | None:
        """Of the process that restores after a kill; None where there is nothing to restore."""
        held = self._held
        return None if held is None or held.watchdog is None else held.watchdog.pid

    def capabilities(self) -> Space:
        """What can be set."""
        return Space(tuple(lever.knob for lever in self._levers.values()))

    def apply(self, named: Mapping[str, Value]) -> dict[str, Value]:
        """Set knobs by name, all or some; those that already are so are left alone.

        Returns:
            What was changed; in a dry run, what would have been.

        Raises:
            DeviceBusyError: another process governs the device.
            HardwareError: a name or value is unknown, or it cannot be set; in one line.
        """
        for name, value in named.items():
            self._check(name, value)
        with self._turn:
            changed = {name: value for name, value in named.items() if self._is_new(name, value)}
            if self.dry_run:
                logger.info("%s: dry run, would set %s", self.device, changed)
                return changed
            for name, value in changed.items():
                self._write(name, value)
        return changed

    def _check(self, name: str, value: Value) -> None:
        if name not in self._levers:
            known = ", ".join(self._levers) or "none"
            raise HardwareError(f"{self.device}: expected one of the knobs {known}; got {name}")
        values = self._levers[name].knob.values
        if value not in values:
            raise HardwareError(
                f"{self.device}: expected for {name} one of {values}, but got {value!r}"
            )

    def _is_new(self, name: str, value: Value) -> bool:
        return name not in self._set or self._set[name] != value

    def _write(self, name: str, value: Value) -> None:
        held = self._hold()
        fresh = name not in held.touched
        held.touch(name)
        self._set.pop(name, None)  # unknown, if it fails
        try:
            self._levers[name].write(value)
        except (HardwarePermissionError, NotSupportedError):
            if fresh:
                held.spare(name)
            raise
        self._set[name] = value

    def _hold(self) -> Held:
        """The device, locked."""
        if self._held is None:
            lock = self._lock()
            try:
                undos = {name: lever.undos() for name, lever in self._levers.items()}
            except BaseException:
                lock.release()
                raise
            self._held = Held(os.getpid(), lock, undos)
        return self._held

    def _lock(self) -> DeviceLock | ProcessLock:
        if self._of_process:
            return ProcessLock(self.device)
        return DeviceLock(self.device, self._lock_dir)

    def read(self) -> dict[str, Value]:
        """What the device shows now, knobs by name.

        Raises:
            HardwareError: it shows nothing; in one line.
        """
        return {name: lever.read() for name, lever in self._levers.items()}

    def restore(self) -> None:
        """Put back what was in force before the first `apply`, and let others take the device.

        Raises:
            HardwareError: something could not be put back, though all was tried; in one line.
        """
        with self._turn:
            held = self._held
            if held is None or held.pid != os.getpid():
                return  # a forked process has no part in it
            failed = held.put_back()
            self._held = None
            self._set.clear()
        if failed:
            reasons = "; ".join(str(error) for _, error in failed)
            raise HardwareError(f"{self.device}: could not be put back as it was: {reasons}")

    def __enter__(self) -> Self:
        """Nothing is changed yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore."""
        self.restore()
