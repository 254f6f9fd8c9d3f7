"""A device under load, without noise: time, latency, power and energy of settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_load import (
    Crowd,
    crowd_of,
    overload_s,
    pressed,
    spread,
    tail_factor,
    wait_s,
)
from flyball.integrations.hardware.device_power import busy_w, idle_w
from flyball.integrations.hardware.device_settings import Settings
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_time import Round, round_of
from flyball.integrations.hardware.device_work import Work, round_variation
from flyball.policies.throttle.base import Context
from flyball.policies.throttle.space import Places

Floats = NDArray[np.float64]

TEMPERATURE_ROUNDS = 4  # leakage and temperature settle to 0.1% within


@dataclass(frozen=True)
class Steady:
    """What settings (S,) come to once temperature and queue have settled.

    Attributes:
        graphics_clock_mhz: in force, after the power and thermal limits.
        running: requests that decode together while any does.
        token_s: median seconds per token, in the crowd's tail.
        latency_s: the SLO's: see `DeviceModel`.
        deviation: of the logarithm of latencies, before waiting.
        wait_s: of `latency_s`, what waiting to be let in costs a token.
        rate: tokens a second while any request decodes.
        capacity: tokens a second with as many requests as are let in.
        tokens_per_s: that are generated.
        busy: share of the time.
        busy_w: while rounds run.
        idle_w: while none does.
        power_w: on average.
        temperature_c: settled.
    """

    graphics_clock_mhz: Floats
    running: Floats
    token_s: Floats
    latency_s: Floats
    deviation: Floats
    wait_s: Floats
    rate: Floats
    capacity: Floats
    tokens_per_s: Floats
    busy: Floats
    busy_w: Floats
    idle_w: Floats
    power_w: Floats
    temperature_c: Floats

    @property
    def energy_per_token_j(self) -> Floats:
        """(S,), idle time included."""
        return self.power_w / self.tokens_per_s


class DeviceModel:
    """A device that decodes with a model, or with a draft and its target.

    **The latency** (`token_latency_p99_ms`) is the time per output token that 99% of tokens stay
    below: the seconds that a stretch of 16 tokens of one request takes, over 16, so that a round
    that brings several tokens counts as the stream that a reader sees; plus the request's wait to
    be let in, over the tokens of its answer. Reading the request's own prompt (time to first
    token) is not in it; reading other requests' prompts between rounds is.

    **The energy** is the device's whole draw over the tokens generated, idle time included: load
    comes as asked, and a device that finishes early idles at its locked clocks.

    **Limits.** The graphics clock falls to the highest step whose busy power fits the power limit
    and whose mean power keeps the temperature below its limit.

    Args:
        spec: the device.
        work: what is decoded.
    """

    def __init__(self, spec: DeviceSpec, work: Work) -> None:
        self.spec = spec
        self.work = work
        self._clocks = np.array(spec.graphics_clocks_mhz)

    def steady(
        self, settings: Settings, context: Context, temperature_c: float | None = None
    ) -> Steady:
        """What settings (S,) come to.

        Args:
            settings: (S,).
            context: load, in force for long.
            temperature_c: of the device, where it has not settled; it settles without.
        """
        places = np.searchsorted(self._clocks, settings.graphics_clock_mhz + 1e-6) - 1
        found = self._at(settings, places, context, temperature_c)
        over = np.flatnonzero(~self._fits(found, settings, temperature_c))
        if over.size:
            some = settings.take(over)
            low, high = np.zeros_like(over), places[over]
            while (low + 1 < high).any():
                middle = (low + high) // 2
                tried = self._at(some, middle, context, temperature_c)
                fits = self._fits(tried, some, temperature_c)
                low, high = np.where(fits, middle, low), np.where(fits, high, middle)
            places[over] = low
            found = self._at(settings, places, context, temperature_c)
        return found

    def _fits(
        self, found: Steady, settings: Settings, temperature_c: float | None
    ) -> NDArray[np.bool_]:
        """Whether power fits, and temperature does or is still below its limit."""
        limit_c = self.spec.limit_c
        cool: NDArray[np.bool_] = found.temperature_c <= limit_c
        if temperature_c is not None and temperature_c < limit_c:
            cool = np.ones_like(cool)
        return cool & (found.busy_w <= settings.power_limit_w)

    def _at(
        self,
        settings: Settings,
        places: Places,
        context: Context,
        temperature_c: float | None,
    ) -> Steady:
        """With the graphics clock at these places among the device's clocks."""
        spec, work = self.spec, self.work
        clock = self._clocks[places]
        crowd, capacity = self._crowd(settings, clock, context)
        usual = self._round(settings, clock, crowd.running, context)
        tail = self._round(settings, clock, crowd.crowded, context)
        rate = crowd.running * usual.num_tokens / usual.round_s
        busy = np.minimum(context.tokens_per_s / rate, 1.0)
        busy_power, idle_power, temperature = self._power(
            settings, clock, usual, busy, temperature_c
        )
        deviation = spread(
            spec,
            round_variation(context.acceptance, settings.draft_len),
            usual.num_tokens,
            usual.prefill_share,
        )
        load = context.tokens_per_s / capacity
        token_s = tail.round_s / tail.num_tokens * crowd.backlog
        waited_s = wait_s(usual.round_s / usual.num_tokens, load, crowd.limit)
        waited_s = waited_s + crowd.gather_s / work.answer_len
        latency_s = token_s * tail_factor(spec, deviation) + waited_s + overload_s(load, work)
        return Steady(
            graphics_clock_mhz=clock,
            running=crowd.running,
            token_s=token_s,
            latency_s=latency_s,
            deviation=deviation,
            wait_s=waited_s,
            rate=rate,
            capacity=capacity,
            tokens_per_s=np.minimum(capacity, context.tokens_per_s),
            busy=busy,
            busy_w=busy_power,
            idle_w=idle_power,
            power_w=busy * busy_power + (1.0 - busy) * idle_power,
            temperature_c=temperature,
        )

    def _crowd(self, settings: Settings, clock: Floats, context: Context) -> tuple[Crowd, Floats]:
        """Who decodes together, (S,), and the tokens a second of a full batch, (S,)."""
        crowd = crowd_of(self.spec, self.work, settings.batch_size, context)
        alone = self._round(settings, clock, crowd.running, context)
        full = self._round(settings, clock, crowd.limit, context)
        crowd = pressed(self.spec, crowd, alone, full, context.tokens_per_s)
        return crowd, crowd.limit * full.num_tokens / full.round_s

    def _round(
        self, settings: Settings, clock: Floats, num_requests: Floats, context: Context
    ) -> Round:
        return round_of(self.spec, self.work, settings, clock, num_requests, context.acceptance)

    def _power(
        self,
        settings: Settings,
        clock: Floats,
        usual: Round,
        busy: Floats,
        temperature_c: float | None,
    ) -> tuple[Floats, Floats, Floats]:
        """Busy watts, idle watts and settled temperature, (S,) each."""
        spec = self.spec
        settles = temperature_c is None
        warm = np.full_like(clock, 60.0 if temperature_c is None else temperature_c)
        for _ in range(TEMPERATURE_ROUNDS if settles else 1):
            busy_power = busy_w(spec, settings, clock, usual, warm)
            idle_power = idle_w(spec, settings, clock, warm)
            power = busy * busy_power + (1.0 - busy) * idle_power
            settled = spec.ambient_c + spec.resistance_c_per_w * power
            warm = settled if settles else warm
        return busy_power, idle_power, settled
