"""What can be set of a CPU within one process: threads, and where they run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from flyball.integrations.hardware.orders import Undo
from flyball.policies.throttle.space import Knob, Value

_TASKS = Path("/proc/self/task")


class ThreadsLever:
    """OpenMP and MKL threads of torch's operators.

    Each thread that calls torch has a number of its own (OpenMP's `nthreads-var`), so it must be
    set by the one that decodes.

    Args:
        num_cpus: largest number.
    """

    slow = False

    def __init__(self, num_cpus: int) -> None:
        now = torch.get_num_threads()
        counts = steps_up_to(max(num_cpus, now), now)
        place = counts.index(now)
        self.knob = Knob("num_threads", tuple(map(float, counts)), "count", place, place)

    def read(self) -> Value:
        """Of the thread that asks."""
        return float(torch.get_num_threads())

    def write(self, value: Value) -> None:
        """For the thread that calls."""
        torch.set_num_threads(int(value))

    def undos(self) -> list[Undo]:
        """Set what is in force now."""
        return [partial(torch.set_num_threads, torch.get_num_threads())]


class AffinityLever:
    """CPUs that the threads of this process may run on: the first so many of those allowed.

    Args:
        cpus: allowed, in the sequence in which they are taken.
    """

    slow = False

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = tuple(cpus)
        counts = steps_up_to(len(cpus), len(cpus))
        last = len(counts) - 1
        self.knob = Knob("num_cpus", tuple(map(float, counts)), "count", last, last)

    def read(self) -> Value:
        """Of the thread that asks."""
        return float(len(os.sched_getaffinity(0)))

    def write(self, value: Value) -> None:
        """For all threads that there are; those to come inherit it."""
        for task in _tasks():
            _set_affinity(task, set(self._cpus[: int(value)]))

    def undos(self) -> list[Undo]:
        """Give each thread its own CPUs back; those that came since, the whole process's."""
        before = {task: os.sched_getaffinity(task) for task in _tasks()}
        whole = set(self._cpus)

        def give_back() -> None:
            for task in _tasks():
                _set_affinity(task, before.get(task, whole))

        return [give_back]


def steps_up_to(most: int, now: int) -> list[int]:
    """Counts worth trying: all up to 8, then in steps of an eighth, and what is in force."""
    step = max(1, most // 8)
    return sorted({1, now, most, *range(step, most + 1, step)})


def cpus_by_core(sysfs: Path) -> list[int]:
    """CPUs that this process may run on; one of each core first, their siblings after."""
    allowed = sorted(os.sched_getaffinity(0))
    return sorted(allowed, key=lambda cpu: (_place_in_core(sysfs, cpu), cpu))


def _place_in_core(sysfs: Path, cpu: int) -> int:
    siblings = sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    if not siblings.exists():
        return 0
    listed = parse_cpus(siblings.read_text(encoding="ascii"))
    return listed.index(cpu) if cpu in listed else 0


def parse_cpus(text: str) -> list[int]:
    """CPU numbers of a list as the kernel writes it: "0,4" or "0-1"."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _tasks() -> list[int]:
    return [int(entry.name) for entry in _TASKS.iterdir()]


def _set_affinity(task: int, cpus: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the thread ended in between
        os.sched_setaffinity(task, cpus)
