"""Takes the lowest clock that is predicted to keep the SLO."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.estimators.clock_latency import ClockLatency
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.remembered import check_space, of_space
from flyball.policies.throttle.space import Places, Space


class LowestFeasibleSettings(ThrottleSettings):
    """Settings of the lowest_feasible policy."""

    policy: Literal["lowest_feasible"] = "lowest_feasible"
    knob: str | None = Field(
        default=None, description="The clock that is set; left out, the first of the knobs."
    )
    margin: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="Share of the SLO that stays free."
    )
    least_value: float = Field(
        default=0.0,
        ge=0.0,
        description="The clock never falls below it: the lowest one is seldom the cheapest.",
    )
    max_waiting: int = Field(
        default=0, ge=0, description="More waiting requests than these put the clock at the top."
    )


class LowestFeasible(ThrottlePolicy):
    """Takes the lowest clock whose predicted latency keeps the SLO; the top when a queue forms.

    throttLL'eM (arXiv 2408.05235) predicts iterations per second from clock, batch and KV cache
    and searches the least clock that meets the SLO; VoltanaLLM (arXiv 2509.04827) looks latencies
    up in a table by clock and batch and takes the top clock while requests wait. Both profile
    beforehand; here `ClockLatency` learns from the windows themselves, beginning at the physical
    bound, and every other knob stays safe. Without an SLO nothing is feasible sooner than
    anything else, and the clock stays at the top.
    """

    Settings = LowestFeasibleSettings
    settings: LowestFeasibleSettings

    def __init__(
        self, settings: LowestFeasibleSettings, space: Space, goal: Goal, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, space, goal, rng)
        clocks = [k for k, knob in enumerate(space.knobs) if knob.kind == "clock"]
        named = [k for k in clocks if settings.knob in (None, space.knobs[k].name)]
        if settings.knob is not None and not named:
            names = [space.knobs[k].name for k in clocks]
            raise ValueError(
                f"throttle.knob: expected one of {names}, the clocks, but got '{settings.knob}'"
            )
        self._knob = named[0] if named else None
        self._latency = ClockLatency()

    def _slowdown(self, setting: Places) -> float:
        """How much slower the clock is than at the top."""
        assert self._knob is not None
        top = self.space.knobs[self._knob].values[-1]
        return float(top) / float(self.space.column(self._knob, setting))

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """The lowest feasible clock."""
        setting, slo = self.space.safe, self.goal.latency_slo_s
        if self._knob is None:
            return setting
        values = np.array(self.space.knobs[self._knob].values, np.float64)
        setting[self._knob] = len(values) - 1
        if slo is None or num_waiting > self.settings.max_waiting:
            return setting
        predicted = self._latency.predict(values[-1] / values, context.batch_size)
        fits = (predicted <= (1.0 - self.settings.margin) * slo) & (
            values >= self.settings.least_value
        )
        if fits.any():
            setting[self._knob] = int(fits.argmax())
        return setting

    def learn(self, window: Window) -> None:
        """Take in how long tokens took, where all but the clock was as decided."""
        if self._knob is None:
            return
        others = np.arange(len(self.space.knobs)) != self._knob
        if np.array_equal(window.setting[others], self.space.safe[others]):
            slowdown = self._slowdown(window.setting)
            self._latency.learn(slowdown, window.context.batch_size, window.latency_s)

    @property
    def figures(self) -> dict[str, float]:
        """How latencies follow the clock."""
        return {"clock_share": self._latency.clock_share}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Sums of the regression."""
        return of_space(self.space, **self._latency.state_dict())

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        check_space(state, self.space)
        self._latency.load_state_dict(state)
