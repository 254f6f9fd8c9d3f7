"""A contextual bandit over clocks: AGFT."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.merit import price
from flyball.policies.throttle.remembered import check_space, of_space
from flyball.policies.throttle.space import Bools, Floats, Places, Space

_NUM_FEATURES = 5
_CLIP = 3.0
_START, _FADE, _FLOOR = 10.0, 0.02, 0.1  # exploration
_BASELINE_WINDOWS, _BASELINE_SHARE = 10, 0.9
_PRUNE_FROM, _PRUNE_EVERY, _PRUNE_MARGIN, _PRUNE_SAMPLES = 30, 20, 0.5, 3
_HOPELESS, _HOPELESS_SAMPLES = -1.2, 3
_CASCADE_BELOW = 0.4  # of the top clock: 800 MHz on AGFT's A6000, whose top is 2,100 MHz
_WORST = -2.0


class LinUCBSettings(ThrottleSettings):
    """Settings of the linucb policy."""

    policy: Literal["linucb"] = "linucb"
    knobs: list[str] | None = Field(
        default=None,
        min_length=1,
        description="The knobs whose combinations are the arms; left out, the first clock.",
    )
    num_values: int = Field(
        default=16, ge=2, description="Values of each that are arms, evenly spread."
    )


class LinUCB(ThrottlePolicy):
    """One linear model of the reward for each clock; the largest upper confidence bound is next.

    AGFT (arXiv 2508.01744 and its code). Reward of a window:

        2 (1 - min(2, EDP / baseline)),   EDP = joules per token x latency,

    baseline 0.9 times the mean EDP of the first 10 windows, at default clocks. Features: a
    constant, batch size, tokens per second, acceptance, and whether requests wait; normalised by
    their running mean and deviation, cut at 3. Exploration 10 exp(-0.02 t), at least 0.1. An arm
    is dropped for a mean reward below -1.2 after 3 windows and, every 20 windows after 30, for
    one 0.5 below the best; a clock below 0.4 of the top that is dropped takes all lower ones
    along. What differs: a window that breaks a promise has the least reward, -2, since AGFT itself
    knows of no SLO; and the features are those that `Context` has of AGFT's seven.
    """

    Settings = LinUCBSettings
    settings: LinUCBSettings

    def __init__(
        self, settings: LinUCBSettings, space: Space, goal: Goal, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, space, goal, rng)
        self._arms = self._make_arms()
        num = len(self._arms)
        self._gram = np.tile(np.eye(_NUM_FEATURES), (num, 1, 1))
        self._sum = np.zeros((num, _NUM_FEATURES))
        self._reward = np.zeros((num, 2))  # sum and number
        self._alive = np.ones(num, np.bool_)
        self._moments = np.zeros((3, _NUM_FEATURES))  # number, mean, squared deviations
        self._baseline = np.zeros(2)  # sum and number
        self._rounds = 0

    def _make_arms(self) -> Places:
        """Settings (arms, knobs), the safe one but for the chosen knobs."""
        names = [knob.name for knob in self.space.knobs]
        chosen = self.settings.knobs
        if chosen is None:
            chosen = [knob.name for knob in self.space.knobs if knob.kind == "clock"][:1]
        for name in chosen:
            if name not in names:
                raise ValueError(f"throttle.knobs: expected some of {names}, but got '{name}'")
        arms = self.space.safe[None]
        for knob in [names.index(name) for name in chosen]:
            top = len(self.space.knobs[knob].values) - 1
            places = np.linspace(0, top, min(self.settings.num_values, top + 1))
            places = np.unique(places.round().astype(np.intp))
            arms = np.repeat(arms, len(places), axis=0)
            arms[:, knob] = np.tile(places, len(arms) // len(places))
        return arms

    def _features(self, context: Context, num_waiting: int) -> Floats:
        """(features,), normalised by what was seen so far."""
        raw = self._raw(context, num_waiting)
        number, mean, squares = self._moments
        spread = np.sqrt(squares / np.maximum(number, 1.0))
        found: Floats = np.clip((raw - mean) / np.where(spread > 0.0, spread, 1.0), -_CLIP, _CLIP)
        found[0] = 1.0
        return found

    @staticmethod
    def _raw(context: Context, num_waiting: int) -> Floats:
        return np.array([1.0, *context.array, float(num_waiting > 0)])

    @property
    def searching(self) -> bool:
        """As long as more than one arm is left and exploration has not come to its floor."""
        explores = _START * np.exp(-_FADE * self._rounds) > _FLOOR
        return bool(explores and self._alive.sum() > 1)

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """The default while the baseline is measured; then the most promising arm."""
        if self._baseline[1] < _BASELINE_WINDOWS:
            return self.space.default
        x = self._features(context, num_waiting)
        inverse = np.linalg.inv(self._gram)
        mean = np.einsum("f,afg,ag->a", x, inverse, self._sum)
        width = np.sqrt(np.einsum("f,afg,g->a", x, inverse, x))
        explore = max(_START * np.exp(-_FADE * self._rounds), _FLOOR)
        bound = np.where(self._alive, mean + explore * width, -np.inf)
        best = np.flatnonzero(bound >= bound.max())
        arm: Places = self._arms[best[-1]].copy()  # the highest clock of equals
        return arm

    def learn(self, window: Window) -> None:
        """Take in a window's reward."""
        delay_product = price(window, self.goal) * window.latency_s
        if not delay_product > 0.0:
            return
        if self._baseline[1] < _BASELINE_WINDOWS:
            if np.array_equal(window.setting, self.space.default):
                self._baseline += [delay_product, 1.0]
            return
        arm = np.flatnonzero((self._arms == window.setting).all(axis=1))
        if len(arm) == 0:
            return
        self._note(self._raw(window.context, window.num_waiting))
        baseline = _BASELINE_SHARE * self._baseline[0] / self._baseline[1]
        reward = 2.0 * (1.0 - min(2.0, delay_product / baseline))
        if not window.keeps(self.goal):
            reward = _WORST
        x = self._features(window.context, window.num_waiting)
        self._gram[arm] += np.outer(x, x)
        self._sum[arm] += reward * x
        self._reward[arm] += [reward, 1.0]
        self._rounds += 1
        self._prune()

    def _note(self, raw: Floats) -> None:
        """Welford's update of the features' moments."""
        self._moments[0] += 1.0
        off = raw - self._moments[1]
        self._moments[1] += off / self._moments[0]
        self._moments[2] += off * (raw - self._moments[1])

    def _prune(self) -> None:
        """Drop arms that are clearly poor, never the last one."""
        number = self._reward[:, 1]
        mean = self._reward[:, 0] / np.maximum(number, 1.0)
        poor = (number >= _HOPELESS_SAMPLES) & (mean < _HOPELESS)
        if self._rounds >= _PRUNE_FROM and self._rounds % _PRUNE_EVERY == 0:
            best = mean[self._alive & (number > 0)].max(initial=-np.inf)
            poor |= (number >= _PRUNE_SAMPLES) & (mean < best - _PRUNE_MARGIN)
        left = self._alive & ~poor & ~self._lower(poor)
        if left.any():
            self._alive = left

    def _lower(self, poor: Bools) -> Bools:
        """Arms whose first clock is below that of a low one that was dropped."""
        clocks = [k for k, knob in enumerate(self.space.knobs) if knob.kind == "clock"]
        if not clocks:
            return np.zeros_like(poor)
        value = self.space.column(clocks[0], self._arms)
        top = float(self.space.knobs[clocks[0]].values[-1])
        dropped = value[poor & (value < _CASCADE_BELOW * top)]
        lower: Bools = value < dropped.max(initial=-np.inf)
        return lower

    @property
    def figures(self) -> dict[str, float]:
        """Arms that are left, and windows that were rewarded."""
        return {"arms": float(self._alive.sum()), "rounds": float(self._rounds)}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All sums."""
        return of_space(
            self.space,
            arms=self._arms,
            gram=self._gram,
            sum=self._sum,
            reward=self._reward,
            alive=self._alive,
            moments=self._moments,
            baseline=self._baseline,
            rounds=self._rounds,
        )

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        check_space(state, self.space)
        if not np.array_equal(state["arms"], self._arms):
            raise ValueError("expected throttle state of the same arms; remove the state")
        self._gram, self._sum = state["gram"].copy(), state["sum"].copy()
        self._reward, self._alive = state["reward"].copy(), state["alive"].copy()
        self._moments, self._baseline = state["moments"].copy(), state["baseline"].copy()
        self._rounds = int(state["rounds"])
