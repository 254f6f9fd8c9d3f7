"""Seconds and joules a token as physics has them, with its constants unknown."""

from __future__ import annotations

from collections.abc import Sequence
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
_HIGH = 0.9  # share of the time above which more requests come to decode together
_FULL, _OVERLOAD_S = 0.97, 30.0  # load from which queues grow, and seconds that they do
_NO_LOAD = 0.1  # that says a machine without load, finite for its logarithm
_SOFT = 0.06
_STEP = 1e-4
TAIL = 2.5  # 99% of a normal distribution lie below 2.33 deviations; stalls add to it


@dataclass(frozen=True)
class Asked:
    """Settings and loads (S,), by what physics knows of them.

    Attributes:
        core: clock over the highest.
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


@dataclass(frozen=True)
class _Times:
    """What power depends on, and the latency."""

    latency_s: Floats
    load: Floats  # tokens asked for over those that could be generated
    work_s: Floats  # per token, of those that run
    busy: Floats  # share of the time
    served: Floats  # tokens per second
    compute: Floats  # shares of the round that arithmetic, memory, CPU and device take
    memory: Floats
    host: Floats
    device: Floats


def _logistic(x: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-x))
    return found


def _soft_max(first: Floats, second: Floats, exponent: Floats) -> Floats:
    larger, smaller = np.maximum(first, second), np.minimum(first, second)
    found: Floats = larger * (1.0 + (smaller / larger) ** exponent) ** (1.0 / exponent)
    return found


def per_round(acceptance: Floats, draft_len: Floats) -> Floats:
    """Tokens (...,) that a round brings: (1 - a^(k + 1)) / (1 - a)."""
    a = np.minimum(acceptance, 1.0 - 1e-6)
    found: Floats = (1.0 - a ** (draft_len + 1.0)) / (1.0 - a)
    return found


def round_variance(acceptance: Floats, draft_len: Floats) -> Floats:
    """Variance (...,) of a round's tokens over their squared mean.

    With E[N^2] = sum over j of (2 j + 1) a^j for j = 0 to k, in closed form.
    """
    a, k = np.minimum(acceptance, 1.0 - 1e-3), draft_len
    mean = (1.0 - a ** (k + 1.0)) / (1.0 - a)
    weighted = a * (1.0 - (k + 1.0) * a**k + k * a ** (k + 1.0)) / (1.0 - a) ** 2
    found: Floats = np.maximum((2.0 * weighted + mean) / mean**2 - 1.0, 0.0)
    return found


def _times(constants: Floats, asked: Asked, core: Floats) -> _Times:
    """A roofline with soft edges, and a queue before it; constants (P, ...) as in `PRIOR`.

    A round of n requests, k drafted tokens each, at clocks relative to the highest:

        step(n, t) = soft_max(compute max(t, tile) / core, (1 + cache n) slowness) + launch / core
        round = step(n, n (k + 1)) + k draft steps + prompts, beside host / cpu

    Latency is round / tokens of a round x exp(level deviations), plus waiting by Sakasegawa's
    formula for a queue with as many servers as requests are let in, plus what an overload of 30 s
    leaves behind. Where the queue is always full, running is the limit and latency the round's.
    """
    at = dict(zip(NAMES, constants, strict=False))
    k, in_flight = asked.draft_len, np.maximum(asked.in_flight, 1.0)
    full_up = asked.saturated > 0.0
    unlimited = np.where(full_up, 1.0, 2.0) * in_flight
    limit = np.where(np.isfinite(asked.batch_limit), asked.batch_limit, unlimited)
    exponent = 1.0 + np.exp(at["roof"])
    slowness = _soft_max(1.0 / asked.memory, np.exp(-at["core_bandwidth"]) / core, exponent)
    compute, cache, launch = (np.exp(at[name]) for name in ("compute", "cache", "launch"))
    draft, draft_launch = np.exp(at["draft"]), np.exp(at["draft_launch"])
    host = np.exp(at["host"]) * (1.0 + 0.35 * k) / asked.cpu
    serial, tile = _logistic(at["serial"]), np.exp(at["tile"])
    tokens = per_round(asked.acceptance, k)
    prompt, answers = np.exp(at["prompt"]) * compute, np.exp(at["answers"])

    def round_of(n: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Length, arithmetic, share of bandwidth and prompts of a round of n requests."""
        rows = (n * (k + 1.0)) ** 4 + tile**4  # a partly filled tile costs as a full one
        arithmetic = compute * rows**0.25 / core
        reading = (1.0 + cache * n) * slowness
        drafted = (
            draft * k * _soft_max(compute * (n**4 + tile**4) ** 0.25 / core, slowness, exponent)
        )
        read = answers * n * tokens * _soft_max(prompt / core, slowness, exponent)
        step = _soft_max(arithmetic, reading, exponent)
        launches = launch * (1.0 + draft_launch * k) / core
        device = step + drafted + read + launches
        length = _soft_max(device, (1.0 - serial) * host, np.array(4.0)) + serial * host
        return length, arithmetic + read, (1.0 + cache * n + draft * k) / length, read

    read_s = np.exp(at["read_s"])
    ended = answers * asked.tokens_per_s  # requests a second
    patience = np.minimum(np.maximum(limit - in_flight, 0.0) / ended, np.exp(at["patience"]))
    patience = asked.gathers * patience
    running = np.minimum(in_flight + patience * ended, limit)
    most, held = _most(asked.gathers, running), running
    queue = np.maximum(asked.gathers * in_flight, most) / np.minimum(most, limit)
    full = round_of(limit)[0]
    running = _pressed(running, limit, round_of(running)[0], full, tokens, asked, read_s)
    running = np.where(full_up, limit, running)
    length, arithmetic, memory, read = round_of(running)
    most = _most(asked.gathers, running)
    crowded = np.minimum(most, limit)
    queue = np.maximum(queue * np.minimum(_most(asked.gathers, held), limit), most) / crowded
    tail_length = round_of(crowded)[0]
    queue = np.where(full_up, 1.0, queue)
    load = asked.tokens_per_s * read_s * full / (limit * tokens)
    load = np.where(full_up, _NO_LOAD, load)
    below = np.minimum(load, _FULL)
    wait_s = below ** np.sqrt(2.0 * (limit + 1.0)) / (limit * (1.0 - below))
    wait_s = np.exp(at["queue"]) * wait_s * read_s * length / tokens + patience * answers
    overload = np.maximum(1.0 - _FULL / np.maximum(load, 1e-9), 0.0)
    luck = round_variance(asked.acceptance, k) / np.maximum(np.exp(at["stretch"]) / tokens, 1.0)
    deviation = np.sqrt(np.exp(2.0 * at["jitter"]) + luck + (0.3 * read / length) ** 2)
    latency = read_s * tail_length / tokens * queue
    latency = latency * np.exp(asked.level * np.minimum(deviation, 2.0))
    latency = latency + np.where(full_up, 0.0, wait_s + _OVERLOAD_S * answers * overload)
    device = np.minimum(1.0, 1.0 - (serial * host) / length)
    arrived, most_served = asked.arrived_per_s, limit * tokens / (read_s * full)
    work_s = read_s * length / (running * tokens)
    return _Times(
        latency,
        load,
        work_s,
        np.where(full_up, 1.0, np.minimum(arrived * work_s, 1.0)),
        np.where(full_up, most_served, np.minimum(arrived, most_served)),
        np.minimum(arithmetic / length, device),
        memory,
        np.minimum(host / length, 1.0),
        device,
    )


def _most(gathers: Floats, running: Floats) -> Floats:
    """Requests (...,) in flight in the busiest hundredth of the time."""
    found: Floats = running + (1.0 - gathers) * 0.8 * np.sqrt(running)
    return found


def _pressed(
    running: Floats, limit: Floats, alone: Floats, full: Floats, tokens: Floats, asked: Asked,
    read_s: Floats,
) -> Floats:  # fmt: skip
    """Requests (...,) that decode together once those in flight cannot keep up.

    They pile up until 90% of the time brings what is asked, or all places are taken; a round's
    time is taken as linear in them.
    """
    needed = asked.tokens_per_s * read_s / _HIGH
    slope = (full - alone) / np.maximum(limit - running, 1e-9)
    spare = np.maximum(tokens - needed * slope, 1e-9)
    more = needed * np.maximum(alone - slope * running, 0.0) / spare
    found: Floats = np.minimum(np.maximum(more, running), limit)
    return found


def _watts(constants: Floats, asked: Asked, core: Floats, times: _Times) -> tuple[Floats, Floats]:
    """Watts on average and while busy: f V^2, leakage V^2.5, memory, CPU and the rest."""
    at = dict(zip(NAMES, constants, strict=False))
    floor, kink = _logistic(at["floor_v"]), _logistic(at["kink"])
    rise = np.logaddexp(0.0, (core - kink) / _SOFT) / np.logaddexp(0.0, (1.0 - kink) / _SOFT)
    volts = floor + (1.0 - floor) * rise ** np.exp(at["bend"])
    gated, stall = np.exp(at["gated"]), np.exp(at["stall"])
    activity = gated * (1.0 - times.device)
    activity = activity + stall * (times.device - times.compute) + times.compute
    cpu = asked.has_cpu * asked.cpu * (0.35 + 0.65 * asked.cpu) ** 2
    idle = np.exp(at["base"]) + np.exp(at["leak"]) * volts**2.5
    idle = idle + np.exp(at["memory_idle"]) * asked.memory**1.25 + cpu * np.exp(at["cpu_idle"])
    extra = np.exp(at["memory_busy"]) * np.minimum(times.memory, 1.0)
    extra = extra + cpu * np.exp(at["cpu_busy"]) * times.host
    switching = core * volts**2
    busy_w = idle + extra + switching * activity
    idle_w = idle + switching * gated
    scale, busy = np.exp(at["switching_w"]), times.busy
    return scale * (busy * busy_w + (1.0 - busy) * idle_w), scale * busy_w


def _limited(constants: Floats, asked: Asked) -> Floats:
    """The core's clock that fits the power limit, by bisection between a tenth of it and all."""
    core = np.broadcast_to(asked.core, np.broadcast_shapes(constants[0].shape, asked.core.shape))
    if not np.isfinite(asked.power_limit_w).any():
        return core

    def over(clock: Floats) -> NDArray[np.bool_]:
        busy_w = _watts(constants, asked, clock, _times(constants, asked, clock))[1]
        found: NDArray[np.bool_] = busy_w > asked.power_limit_w
        return found

    low, high = 0.1 * core, core
    fits = ~over(core)
    if fits.all():
        return core
    for _ in range(7):
        middle = 0.5 * (low + high)
        above = over(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(fits, core, low)


def predict(constants: Floats, asked: Asked, outputs: Sequence[str]) -> Floats:
    """Logarithms of these of `OUTPUTS`, (outputs, ..., S).

    Args:
        constants: (P, ...), as in `PRIOR`.
        asked: (S,).
        outputs: by name.
    """
    column = constants[..., None]
    return _predict(column, asked, _limited(column, asked), outputs)[0]


def _predict(
    constants: Floats, asked: Asked, core: Floats, outputs: Sequence[str]
) -> tuple[Floats, Floats]:
    """Outputs (outputs, ...), and log watts while busy (...), at this clock of the core."""
    times = _times(constants, asked, core)
    watts, busy_w = _watts(constants, asked, core, times)
    power, pace = np.log(watts), -np.log(np.maximum(times.served, 1e-9))
    every = {"energy": power + pace, "latency": np.log(times.latency_s), "pace": pace}
    every |= {"power": power, "load": np.log(times.load), "work": np.log(times.work_s)}
    return np.stack([every[name] for name in outputs]), np.log(busy_w)


def slopes(
    constants: Floats, asked: Asked, chosen: NDArray[np.intp], outputs: Sequence[str]
) -> tuple[Floats, Floats]:
    """`predict`, and how it changes with the chosen constants: (K, S), (K, S, chosen).

    Differences of 1e-4. Where the power limit binds, the core's clock x follows the constants c
    so that busy watts w stay: dx/dc = -(dw/dc) / (dw/dx).
    """
    column = constants[:, None]
    core = _limited(column, asked)
    moved = np.repeat(constants[:, None, None], len(chosen) + 1, axis=1)
    moved[chosen, np.arange(len(chosen)), 0] += _STEP
    out, busy = _predict(moved, asked, core, outputs)  # the last of these is not moved
    found = (out[:, :-1] - out[:, -1:]) / _STEP
    bound = core < asked.core
    if bound.any():
        there, busy_there = _predict(column, asked, core * (1.0 + _STEP), outputs)
        by_core = (there - out[:, -1]) / _STEP
        rise = np.maximum((busy_there - busy[-1]) / _STEP, 1e-3)
        follows = np.where(bound, -(busy[:-1] - busy[-1:]) / _STEP / rise, 0.0)
        found = found + by_core[:, None] * follows
    return out[:, -1], np.moveaxis(found, 1, 2)
