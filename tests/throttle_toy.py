"""A little machine with clocks, a draft and a choice of attention, for tests of throttling."""

from __future__ import annotations

import numpy as np

from flyball.policies.throttle.base import Context, Window
from flyball.policies.throttle.space import Knob, Places, Space

SPACE = Space(
    (
        Knob("graphics_clock_mhz", tuple(np.linspace(400.0, 1400.0, 11)), "clock", 10, 10),
        Knob("memory_clock_mhz", (800.0, 1200.0, 1600.0), "clock", 2, 2),
        Knob("draft_len", (0.0, 2.0, 4.0), "count", 0, 0),
        Knob("attention", ("eager", "sdpa"), "category", 0, 1),
    )
)
CONTEXT = Context(tokens_per_s=400.0, batch_size=8.0, acceptance=0.7)
SLO = 0.045


def toy_truth(space: Space, setting: Places, context: Context) -> tuple[float, float]:
    """Watts, and seconds a token, of knobs by name; others change nothing."""
    named = space.named(setting)
    core = float(named.get("graphics_clock_mhz", 1400.0)) / 1400.0
    memory = float(named.get("memory_clock_mhz", 1600.0)) / 1600.0
    draft_len = float(named.get("draft_len", 0.0))
    per_round = sum(min(context.acceptance, 0.99) ** k for k in range(int(draft_len) + 1))
    work = 1.0 + 0.05 * context.batch_size * (1.0 + draft_len)
    seconds = 0.012 * (work / core + 1.0 / memory + 0.3 * draft_len / core) / per_round
    seconds *= 1.2 if named.get("attention") == "eager" else 1.0
    return 40.0 + 30.0 * memory + 150.0 * core**2.5, seconds


def toy_window(
    space: Space, setting: Places, context: Context, rng: np.random.Generator
) -> Window:
    """Ten seconds of it, with noise of 2%."""
    watts, seconds = toy_truth(space, setting, context)
    noise = np.exp(0.02 * rng.standard_normal(2))
    num_tokens = int(min(max(context.batch_size, 1.0), 1e3) * 10.0 / seconds)
    return Window(
        setting=setting,
        context=context,
        window_s=10.0,
        num_tokens=num_tokens,
        energy_j=float(watts * 10.0 * noise[0]),
        latency_s=float(seconds * noise[1]),
    )
