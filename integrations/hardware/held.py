"""A device while it is changed: locked, watched, and with a note of how it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flyball.integrations.hardware.lock import DeviceLock, ProcessLock
from flyball.integrations.hardware.orders import Order, Undo
from flyball.integrations.hardware.watchdog import Watchdog


@dataclass
class Held:
    """A device that is locked: what was changed of it, and what puts that back.

    Attributes:
        pid: of the process that locked it.
        lock: of the device.
        undos: for each knob, changed or not.
        touched: knobs that were changed, or are about to be, the first at first.
        watchdog: once there are orders.
    """

    pid: int
    lock: DeviceLock | ProcessLock
    undos: dict[str, Sequence[Undo]]
    touched: list[str] = field(default_factory=list)
    watchdog: Watchdog | None = None

    def touch(self, name: str) -> None:
        """Make sure that a knob is put back, whatever comes, before it is changed."""
        orders = self._orders([*self.touched, name])
        watched = self.watchdog is not None and self.watchdog.alive
        if orders and not watched and isinstance(self.lock, DeviceLock):
            self.watchdog = Watchdog(self.lock.fd)
        if name not in self.touched:
            self.touched.append(name)
            self.lock.note(self._orders(self.touched))

    def spare(self, name: str) -> None:
        """A knob could not be changed: then it need not be put back."""
        self.touched.remove(name)
        self.lock.note(self._orders(self.touched))

    def _orders(self, names: Sequence[str]) -> list[Order]:
        undos = (undo for name in names for undo in self.undos[name])
        return [undo for undo in undos if isinstance(undo, Order)]

    def put_back(self) -> list[tuple[Undo, Exception]]:
        """Undo all changes, the last first, and let others take the device.

        Returns:
            What failed, and why.
        """
        failed: list[tuple[Undo, Exception]] = []
        for name in reversed(self.touched):
            for undo in self.undos[name]:
                try:
                    undo()
                except Exception as error:
                    failed.append((undo, error))
        # Not before all was tried: whoever interrupts this leaves it to the watchdog.
        if self.watchdog is not None:
            self.watchdog.dismiss()
        self.lock.release([undo for undo, _ in failed[::-1] if isinstance(undo, Order)])
        return failed
