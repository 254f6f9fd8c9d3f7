"""Bayesian optimisation of a policy file over replays of slices of a trace."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import qmc

from flyball.controller.ledger import Ledger
from flyball.controller.space import Point, Space

Floats = NDArray[np.float64]

# Slices are replayed in waves; between them a trial that is clearly worse is stopped.
_WAVES = (2, 2)  # the rest in one
_SURE = 0.99  # probability with which a trial that is stopped is worse than the best one
_LEAST_START = 8  # points spread evenly before the first model
_CANDIDATES = 512
_NEIGHBOURS = 32  # of each of the best
_BEST = 4
_STEP = 0.1  # of a neighbour, standard deviation in the unit cube


@dataclass(frozen=True)
class Result:
    """What a policy did on a slice.

    Attributes:
        rate: tokens per second.
        token_latency_s: the 99th percentile over tokens.
        joules_per_token: where the power is known.
    """

    rate: float
    token_latency_s: float
    joules_per_token: float | None = None


_PARTS = fields(Result)
Evaluate = Callable[[Sequence[tuple[str, int]]], list[Result]]


@dataclass(frozen=True)
class TuneSettings:
    """How to tune.

    Attributes:
        num_trials: policies tried, stopped ones included.
        num_slices: of the trace, that trials are judged by.
        risk: standard deviations over slices that are taken off the mean rate.
        limits: on fields of `Result`, by name: not more than that, as a mean over slices.
        seed: of all choices.
    """

    num_trials: int = 60
    num_slices: int = 8
    risk: float = 0.0
    limits: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass
class Trial:
    """A policy that was tried.

    Attributes:
        number: from 0.
        point: its settings.
        results: on the slices replayed, in their order.
        stopped: whether it was given up before the last slice.
    """

    number: int
    point: Point
    results: list[Result] = field(default_factory=list)
    stopped: bool = False

    @property
    def rates(self) -> Floats:
        """Of the slices replayed."""
        return np.array([result.rate for result in self.results])

    def mean(self, name: str) -> float:
        """Of a field of `Result`, over the slices replayed."""
        return float(np.mean([getattr(result, name) for result in self.results]))


class Tuner:
    """Tries policies one after the other; what was tried so far says which is next.

    The first ones are spread evenly (Sobol). Then a Gaussian process models the logarithm of the
    objective (mean rate less `risk` standard deviations over slices), and further ones that of
    whatever is limited; the point of largest (constrained) log expected improvement
    among many drawn ones is next (Ament et al. 2023). A trial is stopped between waves of slices
    where it is clearly worse than the best one was on the same slices; its objective is then
    what it would be at that ratio.

    Args:
        space: to be searched.
        evaluate: replays policy files, given as JSON, on slices, given by number; in order.
        settings: how to tune.
        path: of the ledger, from which a killed tuning goes on.
        trace: digest of the trace and of how it is replayed.

    Attributes:
        trials: that ended so far.

    Raises:
        TuneError: the ledger is of another tuning.
    """

    def __init__(
        self, space: Space, evaluate: Evaluate, settings: TuneSettings, path: Path, trace: str
    ) -> None:
        self._space, self._evaluate, self._settings = space, evaluate, settings
        self.trials: list[Trial] = []
        how = asdict(settings)
        del how["num_trials"]  # more trials of the same tuning are the same tuning
        said = [space.model_dump(), how, trace]
        key = hashlib.blake2s(json.dumps(said).encode(), digest_size=8).hexdigest()
        self._ledger = Ledger(path, key)
        self._points: dict[int, Point] = {}
        self._known: dict[tuple[int, int], Result] = {}
        for line in self._ledger.lines:
            if "point" in line:
                self._points[line["trial"]] = line["point"]
            else:
                place = (line["trial"], line["slice"])
                self._known[place] = Result(**{part.name: line[part.name] for part in _PARTS})
        start = qmc.Sobol(space.width, seed=settings.seed)
        self._start = start.random_base2(math.ceil(math.log2(self._num_start)))

    @property
    def _num_start(self) -> int:
        return max(_LEAST_START, self._space.width + 1)

    @property
    def best(self) -> Trial | None:
        """The whole trial with the best objective within the limits; None without one."""
        whole = [trial for trial in self.trials if not trial.stopped and self.allows(trial)]
        return max(whole, key=lambda trial: self.objective(trial.rates), default=None)

    def run(self) -> Iterator[Trial]:
        """Try policies; yields each when it ends. It may end early where all were tried."""
        for number in range(len(self.trials), self._settings.num_trials):
            point = self._points.get(number)
            if point is None:
                point = self._propose(number)
                if point is None:
                    break
                self._ledger.add({"trial": number, "point": point})
            trial = Trial(number, point)
            self._try(trial)
            self.trials.append(trial)
            yield trial
        self._ledger.close()

    def _try(self, trial: Trial) -> None:
        policy = self._space.policy_at(trial.point).model_dump_json()
        num_slices = self._settings.num_slices
        ends = [*np.cumsum(_WAVES).tolist(), num_slices]
        for end in sorted({min(end, num_slices) for end in ends}):
            wave = range(len(trial.results), end)
            missing = [number for number in wave if (trial.number, number) not in self._known]
            found = self._evaluate([(policy, number) for number in missing])
            for number, result in zip(missing, found, strict=True):
                self._known[trial.number, number] = result
                line = {"trial": trial.number, "slice": number, **asdict(result)}
                self._ledger.add(line)
            trial.results += [self._known[trial.number, number] for number in wave]
            if end < num_slices and self._hopeless(trial):
                trial.stopped = True
                return

    def _hopeless(self, trial: Trial) -> bool:
        """Whether it is clearly worse than the best one on the slices of both."""
        if self.best is None:
            return False
        gain = trial.rates / self.best.rates[: len(trial.rates)] - 1.0
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        return bool(gain.mean() + stdtrit(len(gain) - 1, _SURE) * error < 0.0)

    def objective(self, rates: Floats) -> float:
        """What is maximised, of rates (s,) on slices."""
        return float(rates.mean() - self._settings.risk * rates.std())

    def _estimate(self, trial: Trial) -> float:
        """The objective; of a stopped trial, what it would be if it went on as it did."""
        best = self.best
        if not trial.stopped or best is None:
            return self.objective(trial.rates)
        ratio = trial.rates.mean() / best.rates[: len(trial.rates)].mean()
        return float(ratio * self.objective(best.rates))

    def allows(self, trial: Trial) -> bool:
        """Whether a trial keeps the limits."""
        return all(trial.mean(name) <= limit for name, limit in self._settings.limits.items())

    def _propose(self, number: int) -> Point | None:
        """The next point; None where all were tried."""
        tried = {tuple(row) for row in self._space.encode([t.point for t in self.trials]).tolist()}
        if number < self._num_start:
            for unit in self._start[number:]:
                point = self._space.decode(unit)
                if tuple(self._space.encode([point])[0].tolist()) not in tried:
                    return point
        rng = np.random.default_rng([self._settings.seed, number])
        pool = self._candidates(rng)
        places = self._space.encode(pool)
        fresh = [row for row, place in enumerate(places.tolist()) if tuple(place) not in tried]
        if not fresh:
            return None
        worth = self._acquisition(places[fresh])
        return pool[fresh[int(worth.argmax())]]

    def _candidates(self, rng: np.random.Generator) -> list[Point]:
        units = [rng.random((_CANDIDATES, self._space.width))]
        ranked = sorted(self.trials, key=self._estimate, reverse=True)[:_BEST]
        for place in self._space.encode([trial.point for trial in ranked]):
            units.append(place + _STEP * rng.standard_normal((_NEIGHBOURS, len(place))))
        return [self._space.decode(unit) for unit in np.clip(np.concatenate(units), 0.0, 1.0)]

    def _acquisition(self, places: Floats) -> Floats:
        """Log expected improvement at places (n, width)."""
        import torch
        from botorch.acquisition.analytic import (
            LogConstrainedExpectedImprovement,
            LogExpectedImprovement,
        )
        from botorch.fit import fit_gpytorch_mll
        from botorch.models.gp_regression import SingleTaskGP
        from botorch.models.model_list_gp_regression import ModelListGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        x = torch.from_numpy(self._space.encode([trial.point for trial in self.trials]))
        values = np.array([self._estimate(trial) for trial in self.trials])
        if values.min() > 0.0:  # a rate; with a risk taken off it may be less than nothing
            values = np.log(values)

        def fit(y: Floats) -> SingleTaskGP:
            torch.manual_seed(self._settings.seed)
            model = SingleTaskGP(x, torch.from_numpy(y)[:, None])
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            return model

        limits = self._settings.limits
        allowed = [self.allows(trial) for trial in self.trials]
        best = float(values[allowed].max()) if any(allowed) else float(values.min())
        acquisition: LogExpectedImprovement | LogConstrainedExpectedImprovement
        if not limits:
            acquisition = LogExpectedImprovement(fit(values), best)
        else:
            limited = [np.log([t.mean(name) for t in self.trials]) for name in limits]
            models = ModelListGP(fit(values), *map(fit, limited))
            bounds: dict[int, tuple[float | None, float | None]] = {
                number: (None, math.log(limit)) for number, limit in enumerate(limits.values(), 1)
            }
            acquisition = LogConstrainedExpectedImprovement(models, best, 0, bounds)
        with torch.no_grad():
            found: Floats = acquisition(torch.from_numpy(places)[:, None, :]).numpy()
        return found
