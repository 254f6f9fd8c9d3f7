"""Puts a device back when the process that governs it was killed.

Started before the first change, as a process of its own: `python -m` this module, with the lock
file's descriptor and a descriptor of the process to watch (`pidfd_open`). What a terminal or a
service manager sends to everybody passes it by: it is in a session of its own, and waits for the
end of the process, which may be cleaning up, whatever signals come.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from typing import IO, cast

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.lock import read_note, write_note
from flyball.integrations.hardware.orders import carry_out

_READY = b"r"
_DONE = b"d"


class Watchdog:
    """A process that carries out the orders in a lock file once this process is dead.

    Args:
        lock_fd: descriptor of the lock file.

    Raises:
        HardwareError: it does not start; in one line.
    """

    def __init__(self, lock_fd: int) -> None:
        try:
            self._process = _start(lock_fd)
        except OSError as error:
            raise HardwareError(
                f"cannot start the watchdog that puts the device back after a kill: "
                f"{error.strerror}; nothing was changed"
            ) from error
        with cast(IO[bytes], self._process.stdout) as out:
            if out.read(1) != _READY:
                raise HardwareError("expected a watchdog process to start, but it ended at once")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it watches."""
        return self._process.poll() is None

    def dismiss(self) -> None:
        """End it, without anything being put back."""
        try:
            with cast(IO[bytes], self._process.stdin) as orders:
                orders.write(_DONE)
        except BrokenPipeError:
            pass  # somebody killed it
        self._process.wait()


def _start(lock_fd: int) -> subprocess.Popen[bytes]:
    watched = os.pidfd_open(os.getpid())
    module = "flyball.integrations.hardware.watchdog"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(lock_fd), str(watched)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(lock_fd, watched),
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        os.close(watched)


def watch(lock_fd: int, watched: int) -> int:
    """Wait until dismissed, or until the watched process is dead; then put the device back.

    Returns:
        Exit status: 1 where something could not be put back.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(sys.stdout.fileno(), _READY)
    ready, _, _ = select.select([sys.stdin, watched], [], [])
    if sys.stdin in ready and os.read(sys.stdin.fileno(), 1) == _DONE:
        return 0
    pid, orders = read_note(lock_fd)
    failed = carry_out(orders)
    for order, error in failed:
        print(f"flyball: {order}, left by process {pid}, failed: {error}", file=sys.stderr)
    write_note(lock_fd, pid or 0, [order for order, _ in failed])
    # A process that was forked from the dead one may hold the descriptor as well.
    fcntl.flock(lock_fd, fcntl.LOCK_UN)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(watch(*map(int, sys.argv[1:])))
