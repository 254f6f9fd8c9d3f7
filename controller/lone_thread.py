"""A thread beside decoding that leaves the operators of others as fast as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch


class LoneThread(threading.Thread):
    """A daemon thread on which torch's operators run alone, whatever number of threads others use.

    Otherwise OpenMP would give it a team of its own. With more threads in all than CPUs, those of
    every team sleep at once where they used to spin for the next operator: on two cores, operators
    of the thread that decodes took three times as long from then on.

    Args:
        target: what it does.
        name: of the thread.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._is_alone = threading.Event()

    def start(self) -> None:
        """Start it; threads to come take over the caller's number of threads, as before."""
        num_threads = torch.get_num_threads()
        super().start()
        self._is_alone.wait()
        torch.set_num_threads(num_threads)

    def run(self) -> None:
        """Work."""
        torch.get_num_threads()  # at its first use a thread takes over the process's number
        torch.set_num_threads(1)
        self._is_alone.set()
        super().run()
