"""A device under load, without noise: time, latency, power and energy of settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_load import (
    Crowd,
    crowd_of,
    overload_s,
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
        token_s: median seconds per token of a request that runs, and of the crowd's tail.
        latency_s: the SLO's: see `DeviceModel`.
        deviation: of the logarithm of latencies, before waiting.
        wait_s: of `latency_s`, what waiting costs a token.
        capacity: tokens a second that could be generated.
        tokens_per_s: that are.
        busy: share of the time.
        busy_w: while rounds run.
        idle_w: while none does.
        power_w: on average.
        temperature_c: settled.
    """

    graphics_clock_mhz: Floats
    token_s: Floats
    latency_s: Floats
    deviation: Floats
    wait_s: Floats
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

    def take(self, rows: Places) -> Steady:
        """What some of the settings come to."""
        return Steady(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


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
        over = np.flatnonzero(~self._fits(found, settings))
        if over.size:
            some = settings.take(over)
            low, high = np.zeros_like(over), places[over]
            while (low + 1 < high).any():
                middle = (low + high) // 2
                fits = self._fits(self._at(some, middle, context, temperature_c), some)
                low, high = np.where(fits, middle, low), np.where(fits, high, middle)
            places[over] = low
            found = self._at(settings, places, context, temperature_c)
        return found

    def _fits(self, found: Steady, settings: Settings) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = (found.busy_w <= settings.power_limit_w) & (
            found.temperature_c <= self.spec.limit_c
        )
        return fits

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
        crowd = crowd_of(spec, work, settings.batch_size, context)
        usual = self._round(settings, clock, crowd.running, context)
        tail = self._round(settings, clock, crowd.crowded, context)
        capacity = crowd.running * usual.num_tokens / usual.round_s
        load = context.tokens_per_s / capacity
        busy = np.minimum(load, 1.0)
        busy_power, idle_power, power, temperature = self._power(
            settings, clock, usual, busy, temperature_c
        )
        token_s = tail.round_s / tail.num_tokens * crowd.backlog
        deviation = spread(
            spec,
            round_variation(context.acceptance, settings.draft_len),
            usual.num_tokens,
            usual.prefill_share,
        )
        waited_s = self._wait_s(usual, load, crowd)
        latency_s = token_s * tail_factor(spec, deviation) + waited_s + overload_s(load, work)
        return Steady(
            clock,
            token_s,
            latency_s,
            deviation,
            waited_s,
            capacity,
            np.minimum(capacity, context.tokens_per_s),
            busy,
            busy_power,
            idle_power,
            power,
            temperature,
        )

    def _round(
        self, settings: Settings, clock: Floats, num_requests: Floats, context: Context
    ) -> Round:
        return round_of(self.spec, self.work, settings, clock, num_requests, context.acceptance)

    def _wait_s(self, usual: Round, load: Floats, crowd: Crowd) -> Floats:
        waited = wait_s(usual.round_s / usual.num_tokens, load, crowd.running)
        return waited + crowd.gather_s / self.work.answer_len

    def _power(
        self,
        settings: Settings,
        clock: Floats,
        usual: Round,
        busy: Floats,
        temperature_c: float | None,
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Busy watts, idle watts, mean watts and temperature, (S,) each."""
        spec = self.spec
        settles = temperature_c is None
        temperature = np.full_like(clock, 60.0 if temperature_c is None else temperature_c)
        for _ in range(TEMPERATURE_ROUNDS if settles else 1):
            busy_power = busy_w(spec, settings, clock, usual, temperature)
            idle_power = idle_w(spec, settings, clock, temperature)
            power = busy * busy_power + (1.0 - busy) * idle_power
            if settles:
                temperature = spec.ambient_c + spec.resistance_c_per_w * power
        return busy_power, idle_power, power, temperature
