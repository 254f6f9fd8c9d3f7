"""Tries a limit's values from the top, and keeps the best."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.merit import price
from flyball.policies.throttle.remembered import check_space, of_space
from flyball.policies.throttle.space import Floats, Places, Space


class SweepSettings(ThrottleSettings):
    """Settings of the sweep policy."""

    policy: Literal["sweep"] = "sweep"
    select: Literal["price", "time", "cost", "slowdown"] = Field(
        default="price",
        description="What the best value is: of least joules a token (or most tokens per second, "
        "where that is the goal), of least latency, of least cost eta E + (1 - eta) P T, or the "
        "lowest whose latency is at most slowdown times that at the top.",
    )
    eta: float = Field(default=0.5, ge=0.0, le=1.0, description="Share of energy in the cost.")
    slowdown: float = Field(default=1.1, ge=1.0, description="Largest ratio of latencies.")
    num_values: int = Field(
        default=8,
        ge=2,
        description="Values that are tried of each clock and limit, evenly spread.",
    )
    num_windows: int = Field(default=1, ge=1, description="Windows at each value.")


class Sweep(ThrottlePolicy):
    """Sweeps limits and clocks, one after the other, from the top, and keeps the best of each.

    Zeus (NSDI 2023, sections 4.2 and 5): a limit is profiled from its maximum down in equal steps,
    and chosen by one of its code's selectors: energy; time; the cost eta E + (1 - eta) P_max T,
    with E joules and T seconds a token and P_max the largest power seen; or the largest slowdown
    that is tolerated. Zeus sweeps the power limit alone; here every limit and clock has its turn,
    those before it at their best, other knobs at their safe values. A sweep ends early below the
    first value that breaks the goal's promises, since latencies only rise from there. Zeus
    profiles each batch size; here a batch twice or half as large starts all sweeps again.
    """

    Settings = SweepSettings
    settings: SweepSettings

    def __init__(
        self, settings: SweepSettings, space: Space, goal: Goal, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, space, goal, rng)
        kinds = {"limit": 0, "clock": 1}  # power limits first
        found = [k for k, knob in enumerate(space.knobs) if knob.kind in kinds]
        self._knobs = sorted(found, key=lambda k: kinds[space.knobs[k].kind])
        self._start_again(np.nan)

    def _start_again(self, batch_size: float) -> None:
        self._batch_size = batch_size
        self._turn = 0  # of the knobs to be swept
        self._best = self.space.safe
        self._seen = np.empty((0, 5))  # place, joules, seconds, watts, price: of this sweep
        self._kept = True  # whether all values so far kept the goal

    @property
    def searching(self) -> bool:
        """Until all sweeps are through."""
        return self._turn < len(self._knobs)

    def _values(self) -> Places:
        """Places of the knob in its turn, from the top."""
        top = len(self.space.knobs[self._knobs[self._turn]].values) - 1
        spread = np.linspace(top, 0, min(self.settings.num_values, top + 1))
        return np.unique(spread.round().astype(np.intp))[::-1]

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """The next value of the knob in its turn; the best of all once all are through."""
        before, now = self._batch_size, context.batch_size
        if not 0.5 * before <= now <= 2.0 * before:
            self._start_again(context.batch_size)
        setting = self._best.copy()
        if self.searching:
            setting[self._knobs[self._turn]] = self._next()
        return setting

    def _next(self) -> int:
        """Place of the first value that has too few windows."""
        num = (self._seen[:, 0] == self._values()[:, None]).sum(axis=1)
        return int(self._values()[(num < self.settings.num_windows).argmax()])

    def learn(self, window: Window) -> None:
        """Take in a window at the value that was decided; others say nothing of it."""
        if not self.searching or np.isnan(self._batch_size):
            return
        knob = self._knobs[self._turn]
        decided = self._best.copy()
        decided[knob] = self._next()
        if not np.array_equal(decided, window.setting):
            return
        kept = window.keeps(self.goal)
        self._kept &= kept or len(self._seen) == 0  # the top is all that there is
        energy, worth = window.energy_per_token_j, price(window, self.goal)
        if self._kept:
            row = [decided[knob], energy, window.latency_s, window.power_w, worth]
            self._seen = np.vstack([self._seen, row])
        num = (self._seen[:, 0] == self._values()[:, None]).sum(axis=1)
        if not self._kept or (num >= self.settings.num_windows).all():
            self._best[knob] = self._select()
            self._turn += 1
            self._seen, self._kept = self._seen[:0], True

    def _select(self) -> int:
        """The best place of those seen; the top where nothing was measured."""
        places = np.unique(self._seen[:, 0])[::-1]
        joules, seconds, watts, worth = (
            np.array([[r[1:] for r in self._seen if r[0] == place] for place in places])
            .mean(axis=1)
            .T
        )
        select = self.settings.select
        if select == "slowdown":
            return int(places[self._slow_enough(seconds)])
        eta = self.settings.eta
        judged = {
            "price": worth,
            "time": seconds,
            "cost": eta * joules + (1.0 - eta) * watts.max() * seconds,
        }[select]
        return int(places[np.where(np.isnan(judged), np.inf, judged).argmin()])

    def _slow_enough(self, seconds: Floats) -> int:
        """Number of the lowest value above which none is too slow; from the top."""
        slow = ~(seconds <= self.settings.slowdown * seconds[0])
        return len(slow) - 1 if not slow.any() else max(int(slow.argmax()) - 1, 0)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The sweep as far as it went."""
        return of_space(
            self.space,
            batch_size=self._batch_size,
            turn=self._turn,
            best=self._best,
            seen=self._seen,
            kept=self._kept,
        )

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        check_space(state, self.space)
        self._batch_size = float(state["batch_size"])
        self._turn, self._kept = int(state["turn"]), bool(state["kept"])
        self._best, self._seen = state["best"].copy(), state["seen"].copy()
