"""What decoding's physics is asked, what it answers, and what is believed of its constants."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Natural logarithms unless said otherwise: mean and standard deviation of what is believed before
# anything is measured. Seconds are relative to `read_s`, watts to `switching_w`. They span data
# centres' and embedded devices; adjusted on development surfaces (docs/throttle-policies.md).
PRIOR: dict[str, tuple[float, float]] = {
    "read_s": (-4.0, 2.0),  # reading all weights at the highest memory clock
    "compute": (-4.0, 1.0),  # arithmetic of one token
    "tile": (1.9, 0.6),  # tokens that arithmetic takes at least the time of
    "cache": (-4.5, 1.2),  # reading one request's keys and values
    "launch": (-2.5, 0.7),  # latency of launches and synchronisation
    "host": (-1.1, 0.7),  # CPU time of a step
    "serial": (-1.4, 0.5),  # logit of the share of it that the device waits for
    "parallel": (0.0, 1.0),  # logit of the power of the number of threads that speed goes by
    "core_bandwidth": (0.5, 0.12),  # bandwidth that the core allows, over the memory's
    "roof": (0.6, 0.35),  # p - 1, p the exponent of the soft maximum of compute and memory
    "draft": (-2.7, 0.8),  # a draft step's reading and arithmetic, over the target's
    "draft_launch": (-0.3, 0.5),  # and its launches
    "prompt": (5.4, 0.9),  # tokens of a prompt
    "answers": (-5.2, 0.6),  # requests that end for each generated token
    "jitter": (-3.1, 0.35),  # deviation of a reader's seconds per token, without a draft
    "stretch": (2.8, 0.3),  # tokens over which a reader takes them
    "patience": (-2.3, 1.0),  # seconds that a host waits for its batch to fill, where it does
    "queue": (0.14, 0.2),  # variation and quantile of waiting
    "switching_w": (5.0, 2.0),  # of a core whose every cycle computes at the highest clock
    "base": (-2.2, 0.4),
    "leak": (-2.6, 0.35),
    "stall": (-1.1, 0.2),  # activity of cycles that wait for memory
    "gated": (-2.4, 0.2),  # of cycles without work
    "memory_idle": (-2.2, 0.45),
    "memory_busy": (-1.7, 0.2),
    "cpu_idle": (-2.8, 0.4),
    "cpu_busy": (-1.6, 0.4),
    "floor_v": (0.8, 0.3),  # logit of the lowest voltage over the highest
    "kink": (0.0, 0.5),  # logit of the clock, over the highest, from which voltage rises
    "bend": (0.35, 0.2),  # exponent of that rise
}
NAMES = tuple(PRIOR)
# Joules a token, seconds, seconds a token of all, watts, share of what could be generated, seconds
# a token of all while steps run.
OUTPUTS = ("energy", "latency", "pace", "power", "load", "work")
TAIL = 2.5  # 99% of a normal distribution lie below 2.33 deviations; stalls add to it


@dataclass(frozen=True)
class Asked:
    """Settings and loads (S,), by what physics knows of them.

    Attributes:
        core: clock over the highest.
        threads: that run operators at a time, over the most; 1 where they cannot be set.
        contention: threads a CPU, at least 1.
        memory: likewise.
        cpu: likewise.
        has_cpu: whether the meter sees the CPU: 1 or 0.
        power_limit_w: infinite without one.
        batch_limit: requests that may run at a time; infinite without a limit.
        draft_len: tokens drafted.
        tokens_per_s: asked for.
        arrived_per_s: of them, that really came.
        in_flight: requests.
        acceptance: of drafted tokens, one by one.
        level: normal quantile that latencies are: `TAIL` for the SLO's own, less where a window
            had too few tokens to show it.
        gathers: whether the host waits for its batch to fill, 1 or 0, rather than let requests in
            one by one up to a limit.
        saturated: whether requests wait all along, 1 or 0, as in a queue that is worked off: all
            places are taken all the time, no user waits, and there is no load to keep up with.
    """

    core: Floats
    threads: Floats
    contention: Floats
    memory: Floats
    cpu: Floats
    has_cpu: Floats
    power_limit_w: Floats
    batch_limit: Floats
    draft_len: Floats
    tokens_per_s: Floats
    arrived_per_s: Floats
    in_flight: Floats
    acceptance: Floats
    level: Floats
    gathers: Floats
    saturated: Floats

    def rows(self, some: NDArray[np.intp] | NDArray[np.bool_]) -> Asked:
        """Some of them."""
        return Asked(**{field.name: getattr(self, field.name)[some] for field in fields(self)})
