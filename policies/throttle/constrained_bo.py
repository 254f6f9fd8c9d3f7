"""Constrained Bayesian optimisation on a physical prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.estimators.measured import distance
from flyball.policies.throttle.asked import ENDLESS, load_of
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.belief import Belief
from flyball.policies.throttle.candidates import candidates
from flyball.policies.throttle.certified import certified, slowdown
from flyball.policies.throttle.judged import STEP, Judged, judge
from flyball.policies.throttle.remembered import check_space, of_space
from flyball.policies.throttle.space import Bools, Floats, Places, Space
from flyball.policies.throttle.trust import TrustRegion

_ASKING_SHARE = 0.5  # of the largest expected gain, below which an allowed trial is not worth it
_TELLING = 0.1  # share of the variance below which a window tells nothing
_AHEAD, _FADE, _MOST_CHANGE = 2.0, 0.1, 0.5  # of changes of load
_OUTPOSTS = 12
_SAME_LOAD = 0.1


class ConstrainedBOSettings(ThrottleSettings):
    """Settings of the constrained_bo policy."""

    policy: Literal["constrained_bo"] = "constrained_bo"
    trial_confidence: float = Field(
        default=1.6, ge=0.0, description="Deviations by which a trial is to keep the promises."
    )
    confidence: float = Field(default=2.8, ge=0.0, description="The same for what stays in force.")
    least_gain: float = Field(
        default=0.003,
        gt=0.0,
        description="Expected relative gain below which a trial is not worth it.",
    )
    max_trials: int = Field(default=60, ge=1, description="Under one load, at most.")


@dataclass(frozen=True)
class _Plan:
    """What follows from all windows so far, under one load."""

    load: Floats
    best: Places
    trial: Places | None
    gain: float
    outpost: bool  # whether the trial is for what it tells of another setting
    measured: bool  # whether the best was


class ConstrainedBO(ThrottlePolicy):
    """Tries what is expected to save most among what is sure enough to keep the promises.

    PolyThrottle (arXiv 2310.19991) chooses by expected improvement times the probability of
    keeping the SLO, on Gaussian processes that begin from nothing. Here they begin from physics
    (`Belief`): a roofline and C f V^2 with uncertain constants, which a handful of windows pins
    down, and a process on what that leaves over. Load, batch and acceptance are inputs, so that
    another load does not start from nothing.

    A trial is the setting of largest log constrained expected improvement among those that keep
    every limit by `trial_confidence` deviations, and 1.25 times it by 3.1; or whose clocks a
    measured setting certifies (`certified`). Where another one promises much more, the cheapest
    allowed setting is tried that differs from it by faster clocks alone, or, up to twelve times,
    one that is cheap and tells of the limits. The first is the safe setting. Once no trial is
    expected to gain `least_gain`, the setting of least expected cost stays in force among those
    that keep the limits by `confidence` deviations; a change of load may bring the next trial.

    How busy the machine is may stay unsure for long. Settings that were calm, or a clock step of
    a tenth slower, are not held back by it.
    """

    Settings = ConstrainedBOSettings
    settings: ConstrainedBOSettings

    def __init__(
        self, settings: ConstrainedBOSettings, space: Space, goal: Goal, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, space, goal, rng)
        self._belief = Belief(space, goal)
        self._plan: _Plan | None = None
        self._trust = TrustRegion()
        self._num_trials = self._num_outposts = 0
        self._last: Floats | None = None  # load
        self._change = np.zeros(2)  # of its first parts, in logarithms

    @property
    def searching(self) -> bool:
        """Whether something is expected to gain enough, or what stays in force is unmeasured."""
        return self._plan is None or self._plan.trial is not None or not self._plan.measured

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """A trial, if one pays; else the best that is known."""
        load = self._expected(load_of(self.space, context))
        nothing = len(self._belief.measured.settings) == 0 or self.space.num_settings == 1
        if nothing or num_waiting > context.batch_size:
            return self.space.safe
        if self._plan is None or not np.array_equal(self._plan.load, load):
            self._plan = self._make_plan(load)
        chosen = self._plan.best if self._plan.trial is None else self._plan.trial
        return chosen.copy()

    def _expected(self, load: Floats) -> Floats:
        """The load that is planned for: more than the last one by what loads change by.

        Twice the mean change of logarithms from one window to the next, older ones fading.
        """
        ahead: Floats = load * np.append(np.exp(_AHEAD * self._change), 1.0)
        return ahead

    def _note_change(self, load: Floats) -> None:
        if self._last is not None:
            ratio = np.clip(load[:2], 1e-9, ENDLESS) / np.clip(self._last[:2], 1e-9, ENDLESS)
            moved = np.minimum(np.abs(np.log(ratio)), _MOST_CHANGE)
            self._change += _FADE * (moved - self._change)
        self._last = load

    def learn(self, window: Window) -> None:
        """Take in what a window showed."""
        self._note_change(load_of(self.space, window.context))
        self._belief.learn(window)
        if self._plan is not None:  # the safe setting says nothing of others
            self._trust.note(window.keeps(self.goal))
        if self._plan is not None and self._plan.trial is not None:
            tried = np.array_equal(window.setting, self._plan.trial)
            self._num_trials += tried
            self._num_outposts += tried and self._plan.outpost
        self._plan = None

    def _make_plan(self, load: Floats) -> _Plan:
        """Judge the candidates under this load."""
        belief = self._belief
        known = self.space.index(belief.measured.settings)
        sure, calm, kept = self._certified(load), self._calm(load), self._kept(load)
        guess = belief.guess(self.space.grid, load)
        rows = candidates(self.space, guess, belief.limits, sure | (calm <= STEP), known)
        places, measured = self.space.grid[rows], np.isin(rows, np.append(known, rows[-1]))
        judged = judge(
            belief.posteriors(places, load), belief.limits, sure[rows], calm[rows],
            self.settings.confidence, self.settings.trial_confidence,
        )  # fmt: skip
        near = self._trust.holds(self.space, places, places[measured & kept[rows]])
        allowed = judged.allowed & (near | sure[rows] | measured)
        best = int(np.where(judged.keeps & allowed, judged.cost, np.inf).argmin())
        gain = judged.gain(measured, belief.limits)
        tried, aim = int(np.where(allowed, gain, -np.inf).argmax()), int(gain.argmax())
        worth, outpost = float(np.exp(gain[tried])) if allowed[tried] else 0.0, False
        if worth < _ASKING_SHARE * np.exp(gain[aim]) and self._num_outposts < _OUTPOSTS:
            told = self._telling(places, judged, allowed, aim, load)
            if told is not None:
                tried, worth, outpost = told, float(np.exp(gain[aim])), True
        pays = worth >= self.settings.least_gain and self._num_trials < self.settings.max_trials
        seen = bool(np.isin(rows[best], known))
        return _Plan(load, places[best], places[tried] if pays else None, worth, outpost, seen)

    def _telling(
        self, places: Places, judged: Judged, allowed: Bools, aim: int, load: Floats
    ) -> int | None:
        """The allowed setting that tells most of why an aim is not sure enough; None if none does.

        It pays for what it costs more than the cheapest one.
        """
        unsure = judged.unsure[:, aim]
        if not unsure.any():
            return None  # it is only too far for now
        share = self._belief.told(places, load, places[aim])[unsure].min(axis=0)
        tells = allowed & (share >= _TELLING)
        worth = np.where(tells, share - (judged.cost - judged.cost[allowed].min()), -np.inf)
        return int(worth.argmax()) if tells.any() else None

    def _kept(self, load: Floats) -> Bools:
        """Which settings (grid,) were measured to keep all limits under such a load."""
        measured, limits = self._belief.measured, self._belief.limits
        kept = (measured.mean[:, 1 : len(limits)] <= limits[:-1]).all(axis=1)
        kept &= distance(measured.loads, load) <= _SAME_LOAD
        found = np.zeros(self.space.num_settings, np.bool_)
        found[self.space.index(measured.settings[kept])] = True
        return found

    def _calm(self, load: Floats) -> Floats:
        """By how much settings (grid,) can be slower than one that kept all limits."""
        return slowdown(self.space, self.space.grid, self.space.grid[self._kept(load)])

    def _certified(self, load: Floats) -> Bools:
        """Which settings (grid,) keep the SLO by physics alone; none if more is promised."""
        measured = self._belief.measured
        if self._belief.limited != ("latency", "load"):
            return np.zeros(self.space.num_settings, np.bool_)
        latency, variance = measured.mean[:, 1], measured.variance[:, 1]
        slo_s = self.goal.latency_slo_s or np.inf
        return certified(self.space, self.space.grid, load, measured, latency, variance, slo_s)

    @property
    def figures(self) -> dict[str, float]:
        """Trials so far, and what the next one is expected to gain."""
        gain = self._plan.gain if self._plan is not None else float("nan")
        return {"trials": float(self._num_trials), "expected_gain": gain}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Windows, and what physics came to."""
        counts = [self._num_trials, self._num_outposts]
        loads = np.zeros(0) if self._last is None else self._last
        return of_space(
            self.space, counts=counts, last=loads, change=self._change,
            trust=self._trust.radius,
            **self._belief.state_dict(),
        )  # fmt: skip

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        check_space(state, self.space)
        self._belief.load_state_dict(state)
        self._num_trials, self._num_outposts = state["counts"].tolist()
        self._change = state["change"].copy()
        self._trust.radius = float(state["trust"])
        self._last = state["last"].copy() if len(state["last"]) else None
        self._plan = None
