"""Constrained Bayesian optimisation on a physical prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flyball.estimators.measured import distance
from flyball.policies.throttle.acquisition import log_gain
from flyball.policies.throttle.asked import ENDLESS, load_of
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.belief import Belief
from flyball.policies.throttle.certified import certified, slowdown
from flyball.policies.throttle.remembered import check_space, of_space
from flyball.policies.throttle.space import Bools, Floats, Places, Space

_FAR_OVER = 1.25  # of the SLO: what no trial is to exceed
_SURE = 3.1  # deviations: 99.9%
_CAUTION = 0.5  # deviations of cost that what stays in force is charged with
_NEAR = 0.3  # of limits' logarithms, beyond which a setting is no candidate
_SCOUT_SHARE = 0.5  # of the largest expected gain, below which an allowed trial is not worth it
_AHEAD, _FADE, _MOST_CHANGE = 2.0, 0.1, 0.5  # of changes of load
_SCOUTS, _OUTPOSTS = 2, 8  # scouts of one setting, and outposts in all, at most
_STEP, _SAME_LOAD = 1.1, 0.1
_LOAD_SURE = 2.5  # deviations: far over the SLO is what too much load ends in
_CHEAPEST, _OTHERS = 300, 300  # candidates of either kind


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
    outpost: bool  # whether the trial is for what it tells alone


@dataclass(frozen=True)
class _Judged:
    """What is believed of settings (S,).

    Attributes:
        believed: by kind of host: how probable, means and deviations (outputs, S).
        keeps: sure enough to stay in force.
        allowed: sure enough to be tried.
        likely: keeps every limit, by its mean.
        cost: log of what is minimised, charged with doubt.
    """

    believed: list[tuple[float, Floats, Floats]]
    keeps: Bools
    allowed: Bools
    likely: Bools
    cost: Floats


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
    allowed setting is tried that differs from it by faster clocks alone, or, up to eight times,
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
        self._num_trials = self._num_outposts = 0
        self._last: Floats | None = None  # load
        self._change = np.zeros(2)  # of its first parts, in logarithms

    @property
    def searching(self) -> bool:
        """Whether something is expected to gain enough, or nothing was measured yet."""
        return self._plan is None or self._plan.trial is not None

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
        if self._plan is not None and self._plan.trial is not None:
            tried = np.array_equal(window.setting, self._plan.trial)
            self._num_trials += tried
            self._num_outposts += tried and self._plan.outpost
        self._plan = None

    def _make_plan(self, load: Floats) -> _Plan:
        """Judge the candidates under this load."""
        places, measured, sure = self._candidates(load)
        judged = self._judge(places, load, sure, self._calm(places, load))
        best = int(np.where(judged.keeps, judged.cost, np.inf).argmin())
        feasible = measured & (judged.keeps | judged.likely)
        known_best = [float(mean[0][feasible].min()) for _, mean, _ in judged.believed]
        gain = np.logaddexp.reduce(
            [
                np.log(weight) + log_gain(mean, deviation, least, self._belief.limits)
                for (weight, mean, deviation), least in zip(
                    judged.believed, known_best, strict=True
                )
            ]
        )
        gain = np.where(measured, -np.inf, gain)
        tried = int(np.where(judged.allowed, gain, -np.inf).argmax())
        aim = int(gain.argmax())
        worth = float(np.exp(gain[tried])) if judged.allowed[tried] else 0.0
        trial, outpost = places[tried], False
        if worth < _SCOUT_SHARE * np.exp(gain[aim]):
            scout = self._scout(places[aim], load)
            if scout is None and self._num_outposts < _OUTPOSTS:
                scout = _outpost(places, judged, measured)
                outpost = scout is not None
            if scout is not None:
                trial, worth = scout, float(np.exp(gain[aim]))
        pays = worth >= self.settings.least_gain and self._num_trials < self.settings.max_trials
        return _Plan(load, places[best], trial if pays else None, worth, outpost)

    def _calm(self, places: Places, load: Floats) -> Floats:
        """By how much settings (S, knobs) can be slower than one that kept all limits."""
        measured, limits = self._belief.measured, self._belief.limits
        kept = (measured.mean[:, 1 : len(limits)] <= limits[:-1]).all(axis=1)
        kept &= distance(measured.loads, load) <= _SAME_LOAD
        return slowdown(self.space, places, measured.settings[kept])

    def _judge(self, places: Places, load: Floats, sure: Bools, calm: Floats) -> _Judged:
        """Which settings (S, knobs) keep the limits, how surely; the last is the safe one.

        Sure are those that physics certifies; calm says by how much they can be slower than one
        that was measured to keep all.
        """
        believed = self._belief.posteriors(places, load)
        keeps, allowed, likely = (np.ones(len(places), np.bool_) for _ in range(3))
        cost = np.zeros(len(places))
        for weight, mean, deviation in believed:
            slack, unsure = self._belief.limits[:, None] - mean[1:], deviation[1:]
            stays = slack >= self.settings.confidence * unsure
            stays[-1] |= calm <= 1.0
            keeps &= stays.all(axis=0)
            sure_enough = slack >= self.settings.trial_confidence * unsure
            sure_enough &= slack + np.log(_FAR_OVER) >= _SURE * unsure
            sure_enough[-1] = slack[-1] >= _LOAD_SURE * unsure[-1]
            sure_enough[-1] |= calm <= _STEP
            allowed &= sure_enough.all(axis=0)
            likely &= (slack >= 0.0).all(axis=0)
            cost += weight * (mean[0] + _CAUTION * deviation[0])
        keeps, allowed = keeps | sure, allowed | sure
        keeps[-1] = allowed[-1] = True  # the safe setting: nothing is known to be better
        return _Judged(believed, keeps, allowed, likely, cost)

    def _scout(self, aim: Places, load: Floats) -> Places | None:
        """The cheapest allowed setting that tells of one that is promising but not sure enough.

        The same but for faster clocks; None where none is allowed, or two were measured already.
        """
        clocks = np.array([knob.kind == "clock" for knob in self.space.knobs])
        grid = self.space.grid
        like = (grid[:, ~clocks] == aim[~clocks]).all(axis=1) & (grid >= aim)[:, clocks].all(
            axis=1
        )
        known = np.unique(self.space.index(self._belief.measured.settings))
        if like[known].sum() >= _SCOUTS:
            return None
        like[known] = False
        rows = np.flatnonzero(like)
        if len(rows) == 0:
            return None
        rows = rows[:: max(len(rows) // _OTHERS, 1)]
        places = np.concatenate([grid[rows], self.space.safe[None]])
        sure = np.append(self._certified(load)[rows], True)
        judged = self._judge(places, load, sure, self._calm(places, load))
        cost = np.where(judged.allowed, judged.cost, np.inf)[:-1]
        return places[int(cost.argmin())] if np.isfinite(cost).any() else None

    def _candidates(self, load: Floats) -> tuple[Places, Bools, Bools]:
        """Settings worth a closer look, the safe one last; which were measured or are certified.

        By physics' own means what breaks a limit clearly is left out; of the rest the cheapest
        stay, and every so-manieth of the others.
        """
        grid = self.space.grid
        guess = self._belief.guess(grid, load)
        sure, step = self._certified(load), self._calm(grid, load) <= _STEP
        near = np.all(guess[1:] <= self._belief.limits[:, None] + _NEAR, axis=0)
        rows = np.concatenate([_thinned(guess[0], some) for some in (near, sure | step)])
        known = self.space.index(self._belief.measured.settings)
        last = self.space.index(self.space.safe)
        rows = np.append(np.setdiff1d(np.union1d(rows, known), last), last)
        return grid[rows], np.isin(rows, np.append(known, last)), sure[rows]

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
            **self._belief.state_dict(),
        )  # fmt: skip

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        check_space(state, self.space)
        self._belief.load_state_dict(state)
        self._num_trials, self._num_outposts = state["counts"].tolist()
        self._change = state["change"].copy()
        self._last = state["last"].copy() if len(state["last"]) else None
        self._plan = None


def _outpost(places: Places, judged: _Judged, measured: Bools) -> Places | None:
    """The allowed setting that is cheap and of whose limits little is known; None without any."""
    unsure = np.max([deviation[1:].max(axis=0) for _, _, deviation in judged.believed], axis=0)
    worth = np.where(judged.allowed & ~measured, unsure - judged.cost, -np.inf)
    return places[int(worth.argmax())] if np.isfinite(worth.max()) else None


def _thinned(cost: Floats, some: Bools) -> Places:
    """Rows of the cheapest of some (S,) and, evenly by their cost, of others."""
    order = np.flatnonzero(some)[np.argsort(cost[some], kind="stable")]
    rest = order[_CHEAPEST:]
    return np.concatenate([order[:_CHEAPEST], rest[:: max(len(rest) // _OTHERS, 1)]])
