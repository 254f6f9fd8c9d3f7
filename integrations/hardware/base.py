"""What actuators have in common: knobs are levers, and a device is held while it is changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.lock import DeviceLock
from flyball.integrations.hardware.orders import Order
from flyball.integrations.hardware.watchdog import Watchdog
from flyball.policies.throttle.space import Knob, Space, Value

Undo = Callable[[], None]

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


@dataclass(frozen=True)
class _Held:
    """A device that was changed, or is about to be."""

    pid: int
    lock: DeviceLock
    undos: tuple[Undo, ...]
    watchdog: Watchdog | None


class LeverActuator:
    """An actuator made of levers; see `controller.hardware.Actuator`.

    Before the first change it takes the device's lock, notes how to put everything back, and
    starts a watchdog that does so if this process is killed. As a context manager it puts
    everything back when it is left, by an exception or Ctrl-C as well.

    Args:
        device: what it sets, for people and for the lock.
        levers: its knobs.
        dry_run: log what would be set, and set nothing.
        lock_dir: folder of lock files; None for that of the machine.

    Attributes:
        denied: what cannot be set for want of a right, a line each.
    """

    def __init__(
        self,
        device: str,
        levers: Sequence[Lever],
        dry_run: bool = False,
        lock_dir: Path | None = None,
    ) -> None:
        self.device = device
        self.dry_run = dry_run
        self.denied: list[str] = []
        self._levers = {lever.knob.name: lever for lever in levers}
        self._lock_dir = lock_dir
        self._set: dict[str, Value] = {}
        self._held: _Held | None = None
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
            if changed:
                self._hold()
            for name, value in changed.items():
                self._set.pop(name, None)  # unknown, if it fails
                self._levers[name].write(value)
                self._set[name] = value
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

    def _hold(self) -> None:
        """Take the device, unless it is held."""
        held = self._held
        if held is not None and (held.watchdog is None or held.watchdog.alive):
            return
        if held is None:
            lock = DeviceLock(self.device, self._lock_dir)
            try:
                undos = tuple(undo for lever in self._levers.values() for undo in lever.undos())
            except BaseException:
                lock.release()
                raise
            lock.note([undo for undo in undos if isinstance(undo, Order)])
            held = self._held = _Held(os.getpid(), lock, undos, None)
        if any(isinstance(undo, Order) for undo in held.undos):
            self._held = _Held(held.pid, held.lock, held.undos, Watchdog(held.lock.fd))

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
            failed: list[tuple[Undo, Exception]] = []
            for undo in reversed(held.undos):
                try:
                    undo()
                except Exception as error:
                    failed.append((undo, error))
            self._held = None
            self._set.clear()
            # Not before all is put back: whoever interrupts this leaves it to the watchdog.
            if held.watchdog is not None:
                held.watchdog.dismiss()
            held.lock.release([undo for undo, _ in failed[::-1] if isinstance(undo, Order)])
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
