"""What tuners are compared with: random search, and Bayesian optimisation without a prior."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from flyball.policies.throttle.acquisition import log_gain
from flyball.policies.throttle.asked import coordinates
from flyball.policies.throttle.base import Context, Goal, ThrottlePolicy, ThrottleSettings, Window
from flyball.policies.throttle.merit import price
from flyball.policies.throttle.space import Floats, Places, Space

_START = 6  # settings drawn before the first model
_POOL = 1000  # settings that the acquisition looks at
_STEPS = 40  # of fitting hyperparameters


class _Searcher(ThrottlePolicy):
    """Tries for so many windows, then keeps the best that was seen to keep the goal."""

    Settings = ThrottleSettings

    def __init__(
        self, settings: Any, space: Space, goal: Goal, rng: np.random.Generator, num_trials: int
    ) -> None:
        super().__init__(settings, space, goal, rng)
        self._num_trials = num_trials
        self._rows: list[int] = []
        self._shown: list[tuple[float, float]] = []  # logs of price and latency
        self._best, self._least = space.safe, np.inf

    @property
    def searching(self) -> bool:
        """Until all trials are over."""
        return len(self._rows) < self._num_trials

    def decide(self, context: Context, num_waiting: int = 0) -> Places:
        """The safe setting first, then trials."""
        if not self._rows:
            return self.space.safe
        return self._next() if self.searching else self._best.copy()

    def _next(self) -> Places:
        raise NotImplementedError

    def learn(self, window: Window) -> None:
        """Keep what was shown."""
        cost = price(window, self.goal)
        self._rows.append(int(self.space.index(window.setting)))
        self._shown.append((float(np.log(cost)), float(np.log(window.latency_s))))
        if window.keeps(self.goal) and cost < self._least:
            self._best, self._least = window.setting.copy(), cost

    def _drawn(self) -> Places:
        """A setting that was not tried yet."""
        fresh = np.setdiff1d(np.arange(self.space.num_settings), self._rows)
        return self.space.grid[int(self.rng.choice(fresh))]


class RandomSearch(_Searcher):
    """Settings drawn evenly, none twice."""

    def _next(self) -> Places:
        return self._drawn()


class PlainConstrainedEI(_Searcher):
    """BoTorch as it comes: `SingleTaskGP`s for log price and log latency, constrained log-EI.

    Hyperparameters are fitted at every trial; it begins with the safe setting and five drawn ones,
    and looks at 1,000 drawn settings each time. PolyThrottle's search (arXiv 2310.19991), as far
    as it is described.
    """

    def __init__(
        self, settings: Any, space: Space, goal: Goal, rng: np.random.Generator, num_trials: int
    ) -> None:
        super().__init__(settings, space, goal, rng, num_trials)
        grid = _logs(space, space.grid)
        self._bounds = grid.min(axis=0), grid.max(axis=0)

    def _next(self) -> Places:
        if len(self._rows) < _START:
            return self._drawn()
        fresh = np.setdiff1d(np.arange(self.space.num_settings), self._rows)
        pool = self.rng.choice(fresh, min(_POOL, len(fresh)), replace=False)
        mean, deviation = self._posterior(self.space.grid[pool])
        limit = np.log(np.array([self.goal.latency_slo_s or np.inf]))
        gain = log_gain(mean, deviation, float(np.log(self._least)), limit)
        return self.space.grid[pool[int(gain.argmax())]]

    def _posterior(self, places: Places) -> tuple[Floats, Floats]:
        """Means and deviations (2, S)."""
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        torch.manual_seed(int(self.rng.integers(2**31)))
        known = torch.from_numpy(self._inputs(self.space.grid[self._rows]))
        shown = torch.from_numpy(np.array(self._shown))
        asked = torch.from_numpy(self._inputs(places))
        parts = []
        for output in range(2):
            model = SingleTaskGP(known, shown[:, output : output + 1])
            likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of fits that stop at their limit of steps
                fit_gpytorch_mll(
                    likelihood, optimizer_kwargs={"options": {"maxiter": _STEPS}}, max_attempts=1
                )
            with torch.no_grad():
                found = model.posterior(asked)
                parts.append((found.mean[:, 0].numpy(), found.variance[:, 0].sqrt().numpy()))
        mean, deviation = zip(*parts, strict=True)
        return np.stack(mean), np.stack(deviation)

    def _inputs(self, places: Places) -> Floats:
        """Knobs in [0, 1], which BoTorch's priors expect."""
        low, high = self._bounds
        varies = high > low
        inputs = _logs(self.space, places)
        scaled: Floats = (inputs[:, varies] - low[varies]) / (high - low)[varies]
        return scaled


def _logs(space: Space, places: Places) -> Floats:
    """Knobs as the physics sees them, under a load that stays."""
    return coordinates(space, places, np.ones((len(places), 3)))
