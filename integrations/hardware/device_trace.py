"""Load over time: days drawn by seed, and load read from Flyball's own traces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flyball.policies.throttle.base import Context

DAY_S = 86_400.0


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
        peak: load at the top of the wave; bursts may pass it by up to 30%.
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
    share = np.minimum(wave * np.exp(0.04 * rng.standard_normal(num_windows)), 1.3)
    lagged = np.convolve(share, np.full(3, 1 / 3), mode="full")[:num_windows]
    lagged[:2] = share[:2]
    drift = np.cumsum(rng.standard_normal(num_windows)) * 0.01
    acceptance = np.clip(peak.acceptance + drift - drift.mean(), 0.2, 0.95)
    acceptance = acceptance if peak.acceptance > 0 else np.zeros(num_windows)
    batch = np.maximum(np.round(peak.batch_size * lagged), 1.0)
    return [
        Load(window_s, Context(float(peak.tokens_per_s * s), float(b), float(a)))
        for s, b, a in zip(share, batch, acceptance, strict=True)
    ]
