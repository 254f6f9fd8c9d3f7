"""Clocks and copies that make the host wait for a GPU no more than it must."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def upload(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A small array on the device; the host does not wait for the GPU."""
    return torch.from_numpy(array).to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host; `get` waits for this copy alone, not for later work."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                tensor, non_blocking=True
            )
            self._event = torch.cuda.Event()
            self._event.record()

    def get(self) -> NDArray[Any]:
        """The values."""
        if self._event is not None:
            self._event.synchronize()
        result: NDArray[Any] = self._tensor.numpy()
        return result


class RoundClock:
    """Seconds of a round and of its two parts.

    On a GPU the marks are events; they are read after the round's outcome has reached the host,
    so that waiting for the last of them is waiting for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._round_start = time.perf_counter()
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Begin the next part."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def end_round(self) -> tuple[float, NDArray[np.float64]]:
        """Seconds since the last round ended, and between the marks in turn."""
        now = time.perf_counter()
        step_s, self._round_start = now - self._round_start, now
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._cuda:
            self._marks[-1].synchronize()
            parts = [start.elapsed_time(end) / 1e3 for start, end in pairs]
        else:
            parts = [end - start for start, end in pairs]
        self._marks = []
        return step_s, np.array(parts)
