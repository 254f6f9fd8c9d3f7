"""One governor a device: a lock file, which also says how to put the device back."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from flyball.controller.errors import DeviceBusyError, HardwareError
from flyball.integrations.hardware.orders import Order, carry_out, dump_orders, load_orders

_OTHERS_WRITE = 0o022
_SHARED_DIR = Path("/run/lock")


class DeviceLock:
    """Held by one process for one device; ends with the process and its watchdog.

    The kernel's lock (`flock`) on the file is shared with the watchdog, which got the descriptor:
    after a kill nobody takes the device before it is put back. The file holds the process id and
    the orders; whoever takes a file over in which a dead process left orders, whose watchdog was
    killed as well, carries them out first.

    Args:
        device: name.
        folder: of lock files, the same for all who share the device, containers included; None
            for that of the environment's FLYBALL_LOCK_DIR, for /run/lock without it, or for the
            temporary folder where that cannot be written.

    Raises:
        DeviceBusyError: another holds it; with its process id, in one line.
        HardwareError: the file cannot be used, or what a dead process left cannot be put back.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        self.device = device
        name = re.sub(r"[^A-Za-z0-9.]+", "-", device)
        self.path = (folder or _lock_dir()) / f"flyball-{name}.lock"
        self.fd = self._open()
        try:
            self._lock()
            self._finish()
        except BaseException:
            os.close(self.fd)
            raise
        self.note([])

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise HardwareError(
                f"{self.device}: cannot open its lock file {self.path}: {error.strerror}; where "
                f"it is another user's and no process holds it, remove it"
            ) from error
        stat = os.fstat(fd)
        # Orders are carried out with our rights: they must be our own.
        if stat.st_uid != os.geteuid() or stat.st_mode & _OTHERS_WRITE:
            os.close(fd)
            raise HardwareError(
                f"{self.device}: expected its lock file {self.path} to be ours and writable by "
                f"nobody else; remove it where no process holds it"
            )
        return fd

    def _lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid, _ = read_note(self.fd)
            raise _busy(self.device, pid) from error

    def _finish(self) -> None:
        pid, orders = read_note(self.fd)
        failed = carry_out(orders)
        if failed:
            raise HardwareError(
                f"{self.device}: cannot put back what process {pid} changed: "
                f"{'; '.join(str(error) for _, error in failed)}; where that is out of date, "
                f"remove {self.path}"
            )

    def note(self, orders: Sequence[Order]) -> None:
        """Write down how to put the device back, before it is changed."""
        write_note(self.fd, os.getpid(), orders)

    def release(self, left: Sequence[Order] = ()) -> None:
        """Let others take the device; they begin with the orders that are left."""
        if left:
            self.note(left)
        else:
            os.ftruncate(self.fd, 0)
        # A process that was forked in between holds the descriptor, too: closing would not do.
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


class ProcessLock:
    """Held for what belongs to this process, and ends with it: no file tells of it.

    Args:
        device: name.

    Raises:
        DeviceBusyError: somebody in this process holds it; in one line.
    """

    _held: ClassVar[set[str]] = set()
    _turn: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, device: str) -> None:
        self.device = device
        with self._turn:
            if device in self._held:
                raise _busy(device, os.getpid())
            self._held.add(device)

    def note(self, orders: Sequence[Order]) -> None:
        """Nothing outlives the process: there are no orders to write down."""

    def release(self, left: Sequence[Order] = ()) -> None:
        """Let others take the device."""
        with self._turn:
            self._held.discard(self.device)


def _busy(device: str, pid: int | None) -> DeviceBusyError:
    return DeviceBusyError(
        f"{device}: already governed by process {pid or 'unknown'}; stop that one first"
    )


def settle(device: str, folder: Path | None = None) -> None:
    """Put back what a dead process left, so that what is in force is what nobody governs.

    Raises:
        DeviceBusyError: a living one holds the device.
        HardwareError: it cannot be put back; in one line.
    """
    DeviceLock(device, folder).release()


def read_note(fd: int) -> tuple[int | None, list[Order]]:
    """The process that holds a lock file, None where none does, and its orders.

    Raises:
        HardwareError: it holds something else.
    """
    text = os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
    if not text:
        return None, []
    try:
        note = json.loads(text)
        return int(note["pid"]), load_orders(json.dumps(note["orders"]))
    except (KeyError, TypeError, ValueError) as error:
        raise HardwareError(f"expected a lock file, but got {text!r}; remove it") from error


def write_note(fd: int, pid: int, orders: Sequence[Order]) -> None:
    """Write down who holds a device and how to put it back."""
    note = f'{{"pid": {pid}, "orders": {dump_orders(orders)}}}'.encode()
    # In this sequence a kill between the two leaves a note that can be read.
    os.pwrite(fd, note.ljust(os.fstat(fd).st_size), 0)
    os.ftruncate(fd, len(note))


def _lock_dir() -> Path:
    chosen = os.environ.get("FLYBALL_LOCK_DIR")
    if chosen:
        return Path(chosen)
    return _SHARED_DIR if os.access(_SHARED_DIR, os.W_OK) else Path(tempfile.gettempdir())
