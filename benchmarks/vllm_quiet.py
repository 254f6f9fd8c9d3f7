"""How much of the cores other programs took meanwhile; a disturbed measurement says so itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Side:
    """One side of a benchmark: cores that it has to itself, and its processes on them."""

    cores: tuple[int, ...]
    processes: tuple[int, ...]

    def ticks(self) -> tuple[int, dict[int, int]]:
        """Busy ticks of these cores so far, and those of each process that lives."""
        stat = Path("/proc/stat").read_text(encoding="ascii")
        own = {process: _ticks_of(process) for process in self.processes}
        busy = sum(busy_ticks(stat, core) for core in self.cores)
        return busy, {process: ticks for process, ticks in own.items() if ticks is not None}


def busy_ticks(stat: str, core: int) -> int:
    """Ticks in which a core was not idle, as /proc/stat has it."""
    (line,) = (line for line in stat.splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, irq, softirq, steal = (int(x) for x in line.split()[1:9])
    return user + nice + system + irq + softirq + steal


def _ticks_of(process: int) -> int | None:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:  # a helper that a server needed only at its start
        return None
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Watch:
    """Started when it is made.

    Args:
        sides: the engine's and the others'.
    """

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._start_s = time.monotonic()
        self._start = [side.ticks() for side in sides]

    def disturbed(self) -> float:
        """Share of a side's cores that went to others since the start; the worse side's."""
        ticks = (time.monotonic() - self._start_s) * TICKS_PER_S
        shares = []
        for side, (busy_then, own_then) in zip(self._sides, self._start, strict=True):
            busy, own = side.ticks()
            mine = sum(now - own_then[process] for process, now in own.items())
            shares.append((busy - busy_then - mine) / len(side.cores) / ticks)
        return worst(shares)


def worst(shares: Iterable[float]) -> float:
    """The largest share; ticks are coarse, so a small negative one means none."""
    return max(0.0, *shares)
