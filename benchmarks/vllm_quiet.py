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

    def foreign_ticks(self) -> int:
        """Ticks of these cores that went to anything else so far, the hypervisor included."""
        own = sum(_ticks_of(process) for process in self.processes)
        stat = Path("/proc/stat").read_text(encoding="ascii")
        return sum(busy_ticks(stat, core) for core in self.cores) - own


def busy_ticks(stat: str, core: int) -> int:
    """Ticks in which a core was not idle, as /proc/stat has it."""
    (line,) = (line for line in stat.splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, irq, softirq, steal = (int(x) for x in line.split()[1:9])
    return user + nice + system + irq + softirq + steal


def _ticks_of(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Watch:
    """Started when it is made.

    Args:
        sides: the engine's and the others'.
    """

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._start_s = time.monotonic()
        self._start = self._foreign()

    def _foreign(self) -> list[int]:
        return [side.foreign_ticks() for side in self._sides]

    def disturbed(self) -> float:
        """Share of a side's cores that went to others since the start; the worse side's."""
        ticks = (time.monotonic() - self._start_s) * TICKS_PER_S
        gained = zip(self._foreign(), self._start, self._sides, strict=True)
        return worst((now - then) / len(side.cores) / ticks for now, then, side in gained)


def worst(shares: Iterable[float]) -> float:
    """The largest share; ticks are coarse, so a small negative one means none."""
    return max(0.0, *shares)
