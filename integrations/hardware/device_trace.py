"""Load over time: days drawn by seed, and load read from Flyball's own traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flyball.controller.trace_format import codes, first_of_steps
from flyball.integrations.hardware.simulated import SimulatedDevice
from flyball.policies.throttle.base import Context, ThrottlePolicy, Window

BURST = 1.3  # times the peak that bursts reach at most


@dataclass(frozen=True)
class Load:
    """A stretch of time under one load."""

    seconds: float
    context: Context


def draw_day(
    peak: Context,
    rng: np.random.Generator,
    *,
    num_windows: int = 288,
    window_s: float = 30.0,
    bursts: float = 6.0,
) -> list[Load]:
    """A day of load, one stretch a window, compressed to num_windows x window_s seconds.

    Tokens a second follow a daily wave (lowest at night at 15 to 45% of the peak), short bursts
    and noise; requests in flight follow load by Little's law with a lag; acceptance drifts as
    the texts do.

    Args:
        peak: load at the top of the wave; bursts may pass it, up to `BURST` times.
        rng: that the day is drawn from.
        num_windows: of the day.
        window_s: seconds of each.
        bursts: of them on average.
    """
    time = np.arange(num_windows) / num_windows
    night, noon = rng.uniform(0.15, 0.45), rng.uniform(0.5, 0.7)
    wave = night + (1.0 - night) * (0.5 + 0.5 * np.cos(2.0 * np.pi * (time - noon))) ** 1.3
    for start in rng.random(rng.poisson(bursts)):
        length = rng.uniform(0.005, 0.03)
        wave = wave * np.where((time >= start) & (time < start + length), rng.uniform(1.2, 1.9), 1)
    share = np.minimum(wave * np.exp(0.04 * rng.standard_normal(num_windows)), BURST)
    lagged = np.convolve(share, np.full(3, 1 / 3), mode="full")[:num_windows]
    lagged[:2] = share[:2]
    drift = np.cumsum(rng.standard_normal(num_windows)) * 0.004
    acceptance = np.clip(peak.acceptance + drift - drift.mean(), 0.2, 0.95)
    acceptance = acceptance if peak.acceptance > 0 else np.zeros(num_windows)
    batch = np.maximum(np.floor(peak.batch_size * lagged), 1.0)
    return [
        Load(window_s, Context(float(peak.tokens_per_s * s), float(b), float(a)))
        for s, b, a in zip(share, batch, acceptance, strict=True)
    ]


def loads_of(trace: pa.Table, window_s: float) -> list[Load]:
    """The load that a recorded trace shows, window by window; those without a round are left out.

    Tokens a second are those generated, one a row and the accepted ones; requests in flight are
    those of the steps and those that waited, by step; acceptance is that of observed positions.

    Args:
        trace: of one engine, as `read_trace` returns it.
        window_s: seconds of each window.
    """
    time_s = np.asarray(trace["time_s"], np.float64)
    accepted = np.asarray(trace["accepted"], np.float64)
    observed = np.asarray(trace["observed"], np.float64)
    step_s = np.asarray(trace["step_s"], np.float64)
    steps = first_of_steps(codes(trace["run"]), np.asarray(trace["step"], np.int64), step_s)
    flying = np.asarray(trace["batch_size"], np.float64) + np.asarray(trace["waiting"], np.float64)
    window = ((time_s - time_s.min()) // window_s).astype(np.intp)
    num = int(window.max()) + 1
    tokens = np.bincount(window, accepted + 1.0, num)
    hits, seen = np.bincount(window, accepted, num), np.bincount(window, observed, num)
    in_flight = np.bincount(window[steps], flying[steps], num)
    num_steps = np.bincount(window[steps], minlength=num)
    acceptance = np.divide(hits, seen, out=np.zeros(num), where=seen > 0)
    return [
        Load(
            window_s,
            Context(
                float(tokens[w] / window_s),
                float(in_flight[w] / num_steps[w]),
                float(acceptance[w]),
            ),
        )
        for w in np.flatnonzero(num_steps)
    ]


def replay(
    device: SimulatedDevice,
    loads: Sequence[Load],
    policy: ThrottlePolicy,
    rng: np.random.Generator,
) -> list[Window]:
    """What a policy's windows show as the load changes; it knows the load of the window before."""
    windows: list[Window] = []
    context, num_waiting = loads[0].context, 0
    for load in loads:
        device.apply(device.space.named(policy.decide(context, num_waiting)))
        window = device.window(load.seconds, load.context, rng)
        policy.learn(window)
        windows.append(window)
        context, num_waiting = window.context, window.num_waiting
    return windows
