"""A device that is simulated: an actuator, a meter and its virtual time in one."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flyball.controller.errors import HardwareError
from flyball.integrations.hardware.device_load import (
    QUANTILE,
    STRETCH_TOKENS,
    draw_factors,
    overload_s,
)
from flyball.integrations.hardware.device_model import DeviceModel, Steady
from flyball.integrations.hardware.device_power import idle_w
from flyball.integrations.hardware.device_settings import settings_of
from flyball.policies.throttle.base import Context, Window
from flyball.policies.throttle.space import Places, Space, Value

Floats = NDArray[np.float64]

SUBSTEP = 0.67  # of a device's thermal constant
CLUMP_TOKENS = 4  # that arrive at a time: load is a little burstier than Poisson's
FEWEST_DRAWS, MOST_DRAWS = 20, 4000


class SimulatedDevice:
    """A device under load in virtual time: it warms up, queues grow and drain, meters err.

    Lifetime: as an actuator and a meter (`controller.hardware`), within `with`, `apply` knobs,
    `window` for what a stretch of time under them shows; settings are restored at the end.

    `true_energy_j` and `true_latency_s` say what no meter shows: the last window's energy, and
    the latency of its setting and load without luck.

    Args:
        model: the device and what it decodes.
        space: what can be set.
        batch_size: limit where the space has none.
    """

    dry_run = False  # there is nothing that could be harmed
    kind = "joules, simulated"

    def __init__(self, model: DeviceModel, space: Space, batch_size: float = 1.0) -> None:
        self.model = model
        self.space = space
        self.now_s = 0.0
        self.num_switches = 0
        self.temperature_c = model.spec.ambient_c + 15.0
        self.backlog_tokens = 0.0
        self.true_energy_j = float("nan")
        self.true_latency_s = float("nan")
        self._batch_size = batch_size
        self._setting = space.default
        self._drawn_j = 0.0
        self._shown_j = 0.0
        self._true_shown_j = 0.0  # of what was drawn, the part that the counter has seen
        self._shown_at_s = 0.0

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the default setting."""
        self.restore()

    @property
    def device(self) -> str:
        """The class of devices that it stands for."""
        return f"{self.model.spec.name}, simulated"

    @property
    def slow_knobs(self) -> frozenset[str]:
        """Clocks and power limit."""
        return frozenset(k.name for k in self.space.knobs if k.kind in ("clock", "limit"))

    def capabilities(self) -> Space:
        """What can be set."""
        return self.space

    def apply(self, named: Mapping[str, Value], /) -> None:
        """Set knobs by name, all or some; it takes `switch_s` of virtual time if any changes.

        Raises:
            HardwareError: a name or value is unknown; in one line.
        """
        before = self.read()
        unknown = ", ".join(named.keys() - before.keys())
        if unknown:
            raise HardwareError(f"{self.device}: expected its knobs, but got {unknown}")
        try:
            places = self.space.placed({**before, **named})
        except ValueError as error:
            raise HardwareError(f"{self.device}: {error}") from error
        if (places != self._setting).any():
            self._switch(places)

    def read(self) -> dict[str, Value]:
        """The setting in force."""
        return self.space.named(self._setting)

    def restore(self) -> None:
        """Back to the setting where nobody governs."""
        self.apply(self.space.named(self.space.default))

    def energy_j(self) -> float:
        """The counter: joules since the start, as of its last update."""
        return self._shown_j

    def reset_meter(self) -> None:
        """Start the counter afresh, up to date."""
        self._true_shown_j = self._drawn_j
        self._shown_at_s = self.now_s

    def window(self, seconds: float, context: Context, rng: np.random.Generator) -> Window:
        """What so many seconds under the setting and this load show."""
        shown_j = self._shown_j
        drawn_j = self._drawn_j
        generated = worked_s = 0.0
        for part_s in _parts(seconds, SUBSTEP * self.model.spec.thermal_s):
            found = self._steady(context)
            asked = rng.poisson(context.tokens_per_s * part_s / CLUMP_TOKENS) * CLUMP_TOKENS
            some = self._pass(part_s, found, float(asked))
            generated += some
            worked_s += min(some / float(found.rate[0]), part_s)
        self.true_energy_j = self._drawn_j - drawn_j
        self.true_latency_s = float(found.latency_s[0]) + self._behind_s(found, context)
        self._update_counter(rng)
        latency_s = self._latency_s(found, context, generated, rng)
        num_tokens = int(generated)
        # Rounds' jitter and luck, averaged over as many stretches as there were.
        off = float(found.deviation[0]) / np.sqrt(max(generated / STRETCH_TOKENS, 1.0))
        busy = worked_s / seconds * float(np.exp(off * rng.standard_normal()))
        return Window(
            setting=self._setting.copy(),
            context=context,
            window_s=seconds,
            num_tokens=num_tokens,
            energy_j=self._shown_j - shown_j,
            latency_s=latency_s if num_tokens else float("nan"),
            num_waiting=int(self.backlog_tokens / self.model.work.answer_len),
            busy=min(busy, 1.0),
        )

    def _steady(self, context: Context) -> Steady:
        settings = settings_of(self.model.spec, self.space, self._setting[None], self._batch_size)
        return self.model.steady(settings, context, self.temperature_c)

    def _switch(self, places: Places) -> None:
        spec = self.model.spec
        self._setting = places
        settings = settings_of(spec, self.space, places[None], self._batch_size)
        clock, warm = settings.graphics_clock_mhz, np.array([self.temperature_c])
        self._drawn_j += spec.switch_s * float(idle_w(spec, settings, clock, warm)[0])
        self.now_s += spec.switch_s
        self.num_switches += 1

    def _pass(self, seconds: float, found: Steady, arrived: float) -> float:
        """Virtual time goes on; the tokens that were generated."""
        spec = self.model.spec
        capacity = float(found.capacity[0])
        asked = arrived + self.backlog_tokens
        generated = min(asked, capacity * seconds)
        self.backlog_tokens = asked - generated
        busy = min(generated / (float(found.rate[0]) * seconds), 1.0)
        power_w = busy * float(found.busy_w[0]) + (1.0 - busy) * float(found.idle_w[0])
        settled_c = spec.ambient_c + spec.resistance_c_per_w * power_w
        decay = np.exp(-seconds / spec.thermal_s)
        self.temperature_c = float(settled_c + (self.temperature_c - settled_c) * decay)
        self._drawn_j += power_w * seconds
        self.now_s += seconds
        return generated

    def _behind_s(self, found: Steady, context: Context) -> float:
        """Seconds per token by which the backlog exceeds what the steady latency holds of it."""
        work = self.model.work
        steady = float(overload_s(context.tokens_per_s / found.capacity, work)[0])
        return self.backlog_tokens / float(found.capacity[0]) / work.answer_len - steady

    def _latency_s(
        self, found: Steady, context: Context, generated: float, rng: np.random.Generator
    ) -> float:
        """The 99% quantile of a window's stretches of tokens."""
        num = int(np.clip(generated / STRETCH_TOKENS, FEWEST_DRAWS, MOST_DRAWS))
        factors = draw_factors(self.model.spec, float(found.deviation[0]), num, rng)
        running_s = float(found.token_s[0]) * float(np.quantile(factors, QUANTILE))
        waited_s = float(found.wait_s[0]) * float(rng.gamma(25.0, 1.0 / 25.0))
        backlog_s = self.backlog_tokens / float(found.capacity[0]) / self.model.work.answer_len
        return running_s + waited_s + backlog_s

    def _update_counter(self, rng: np.random.Generator) -> None:
        """The counter shows what was drawn up to its last update, with the meter's error."""
        spec = self.model.spec
        span_s = max(self.now_s - self._shown_at_s, 1e-9)
        late_s = min(float(rng.random()) * spec.meter_update_s, span_s)
        share = 1.0 - late_s / span_s
        unshown_j = self._drawn_j - self._true_shown_j
        self._true_shown_j += share * unshown_j
        self._shown_j += share * unshown_j * (1.0 + spec.meter_noise * rng.standard_normal())
        self._shown_at_s = self.now_s - late_s


def _parts(seconds: float, longest_s: float) -> Floats:
    num = max(int(np.ceil(seconds / longest_s)), 1)
    return np.full(num, seconds / num)
