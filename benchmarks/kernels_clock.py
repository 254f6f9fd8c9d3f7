"""Seconds of calls that take turns, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Longer than launching takes: the GPU is busy with nothing while the call's kernels queue up.
_AHEAD_CYCLES = 2_000_000
_COPY_BYTES = {"cpu": 2**26, "cuda": 2**28}


def copier(device: str) -> tuple[Callable[[], Any], int]:
    """A copy within the device's memory, and the bytes that it reads and writes."""
    source = torch.zeros(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.numel()


def take_turns(
    calls: Mapping[str, Callable[[], Any]], device: str, num_rounds: int, rng: np.random.Generator
) -> dict[str, dict[str, Floats]]:
    """Seconds of each call, once a round, in an order shuffled anew for every round.

    On a GPU `device_s` is what its kernels take when they follow each other, by events, and
    `call_s` what a caller waits who finds the GPU idle; on a CPU both are the same.

    Returns:
        By name, (num_rounds,) of each.
    """
    found = {name: np.zeros((2, num_rounds)) for name in calls}
    names = list(calls)
    for number in range(num_rounds):
        for index in rng.permutation(len(names)):
            call = calls[names[index]]
            seconds = _cuda_seconds(call) if device == "cuda" else _cpu_seconds(call)
            found[names[index]][:, number] = seconds
    return {name: {"device_s": both[0], "call_s": both[1]} for name, both in found.items()}


def synchronises(call: Callable[[], Any]) -> bool:
    """Whether a call makes the host wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _cpu_seconds(call: Callable[[], Any]) -> tuple[float, float]:
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    return seconds, seconds


def _cuda_seconds(call: Callable[[], Any]) -> tuple[float, float]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_AHEAD_CYCLES)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000.0, time.perf_counter() - start
