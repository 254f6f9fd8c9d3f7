"""A process that governs a CPU whose sysfs is a folder; run by the tests of restoring.

It lowers the clock, prints its watchdog's process id, and then does what a line on its standard
input says.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

from flyball.integrations.hardware.cpu import CpuActuator


def main(sysfs: Path, locks: Path) -> None:
    # Whoever runs the tests in the background, or under nohup, has their children ignore these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with CpuActuator(sysfs=sysfs, lock_dir=locks) as actuator:
        actuator.apply({"cpu_clock_mhz": 1000.0})
        print(actuator.watchdog_pid, flush=True)
        for line in sys.stdin:
            match line.strip():
                case "raise":
                    raise RuntimeError("as told")
                case "again":
                    actuator.apply({"cpu_clock_mhz": 2000.0})
                    print(actuator.watchdog_pid, flush=True)
                case "fork":
                    reader, writer = os.pipe()
                    child = os.fork()
                    if child == 0:
                        os.close(writer)
                        actuator.restore()
                        print(os.getpid(), flush=True)
                        os.read(reader, 1)  # until the parent is dead
                        os._exit(0)
                case "change":
                    for k in itertools.count():
                        actuator.apply({"cpu_clock_mhz": (1000.0, 2000.0, 3000.0)[k % 3]})
                        print(k, flush=True)
                case "forget":
                    os._exit(0)
                case "leave":
                    return


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
