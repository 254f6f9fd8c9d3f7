"""What is believed of settings under a load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.decode_asked import Asked
from flyball.estimators.measured import Measured
from flyball.estimators.physical_fit import PhysicalFit
from flyball.estimators.residual_gp import SCALE, ResidualProcess
from flyball.policies.throttle.asked import (
    ENDLESS,
    KNOWN,
    asked_of,
    coordinates,
    load_of,
    unknown_features,
)
from flyball.policies.throttle.base import Goal, Window
from flyball.policies.throttle.space import Floats, Places, Space

_MOST_LOAD, _USUAL_LOAD = 0.92, 0.4
_RULED_OUT = 0.005
_ROUGH = 5.0  # how much more physics leaves where it does not know of some knob


class Belief:
    """Windows, physics fitted to them, and a Gaussian process on what that leaves over.

    Outputs are logarithms: first what is to be minimised (joules a token, or seconds a token),
    then what is limited: latency and power where they are promised, and load. No window shows
    load (of the first it is believed to be 0.4, give or take half of it), but physics infers it
    from the others; waiting explodes as load nears 1, far from what a linearised latency foresees.

    Args:
        space: of settings.
        goal: says which outputs matter.
    """

    def __init__(self, space: Space, goal: Goal) -> None:
        self._space = space
        first = "energy" if goal.maximize == "tokens_per_joule" else "pace"
        limits = {"latency": goal.latency_slo_s, "power": goal.power_cap_w, "load": _MOST_LOAD}
        limited = [name for name, limit in limits.items() if limit is not None]
        self.limited = tuple(limited)
        self.outputs = (first, *limited, "work")
        self.limits = np.log([limits[name] or 1.0 for name in limited])
        self.measured = Measured(len(space.knobs), self.outputs)
        _, deviations = unknown_features(space, space.grid)
        example = asked_of(space, space.grid, np.ones((space.num_settings, 3)))
        # Hosts that gather batches and those that do not differ too much for one linear model.
        kinds = (0.0, 1.0) if np.isfinite(example.batch_limit).any() else (0.0,)
        self._fits = {kind: PhysicalFit(example, deviations, self.outputs) for kind in kinds}
        rough = any(knob.kind != "category" and knob.name not in KNOWN for knob in space.knobs)
        factor = _ROUGH if rough else 1.0
        self._scale = factor * np.array([SCALE[name] for name in self.outputs])

    def learn(self, window: Window) -> None:
        """Take in a window."""
        load = load_of(self._space, window.context)
        unknown_load = len(self.measured.settings) == 0 and load[0] < ENDLESS
        shown = {
            "energy": window.energy_per_token_j,
            "latency": window.latency_s,
            "pace": window.window_s / window.num_tokens if window.num_tokens else np.nan,
            "power": window.power_w,
            "work": window.work_per_token_s,
            "load": _USUAL_LOAD if unknown_load else np.nan,
        }
        values = np.array([shown[name] for name in self.outputs])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.where(values > 0.0, values, np.nan))
        self.measured.add(window.setting, load, logs, window.num_tokens, window.tokens_per_s)
        self.refit()

    def refit(self) -> None:
        """Fit physics to all that is kept."""
        known = self.measured
        if len(known.settings):
            for kind, fit in self._fits.items():
                asked, extra = self._known(kind)
                fit.fit(asked, extra, known.mean.T, self._variance)

    @property
    def _weights(self) -> dict[float, float]:
        """How probable each kind of host is, by how well physics fits."""
        errors = {kind: fit.errors for kind, fit in self._fits.items()}
        least = min(errors.values())
        share = {kind: float(np.exp((least - error) / 2.0)) for kind, error in errors.items()}
        return {kind: it / sum(share.values()) for kind, it in share.items()}

    def _known(self, kind: float) -> tuple[Any, Floats]:
        """What was measured, as physics takes it."""
        known = self.measured
        asked = self._asked(known.settings, known.loads, kind)
        arrived = np.maximum(known.arrived, 1e-9)
        asked = replace(asked, level=known.level, arrived_per_s=arrived)
        return asked, unknown_features(self._space, known.settings)[0]

    def _asked(self, settings: Places, loads: Floats, kind: float) -> Asked:
        asked = asked_of(self._space, settings, loads)
        return replace(asked, gathers=np.full(len(settings), kind))

    def guess(self, settings: Places, load: Floats) -> Floats:
        """Means (outputs, S) by physics alone, of the more probable kind of host; quickly."""
        kind = self._likeliest
        asked = self._asked(settings, np.tile(load, (len(settings), 1)), kind)
        found = self._fits[kind].predict(asked, unknown_features(self._space, settings)[0])
        return found[:-1]

    def posteriors(self, settings: Places, load: Floats) -> list[tuple[float, Floats, Floats]]:
        """Means and deviations (outputs, S) under a load (3,), by kind of host.

        Each with how probable it is; both kinds as long as neither can be ruled out.
        """
        loads = np.tile(load, (len(settings), 1))
        weights = {kind: it for kind, it in self._weights.items() if it > _RULED_OUT}
        return [
            (weight, *self._of_kind(kind, settings, loads)) for kind, weight in weights.items()
        ]

    def _of_kind(self, kind: float, settings: Places, loads: Floats) -> tuple[Floats, Floats]:
        mean, slope, places = self._linear(kind, settings, loads)
        off, deviation = self._process(kind).marginals(slope, places)
        return (mean + off)[:-1], deviation[:-1]

    @property
    def _variance(self) -> Floats:
        """(outputs, n) of what was measured, with what physics leaves over."""
        found: Floats = (self.measured.variance + self._scale**2).T
        return np.where(np.isnan(self.measured.mean.T), np.nan, found)

    def _process(self, kind: float) -> ResidualProcess:
        known, (asked, extra) = self.measured, self._known(kind)
        prior, features = self._fits[kind].linear(asked, extra)
        places = coordinates(self._space, known.settings, known.loads)
        off = known.mean.T - prior
        return ResidualProcess(features, places, off, known.variance.T, self._scale)

    def _linear(
        self, kind: float, settings: Places, loads: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Prior means (outputs, S), features and coordinates of settings."""
        asked, extra = self._asked(settings, loads, kind), unknown_features(self._space, settings)
        return (
            *self._fits[kind].linear(asked, extra[0]),
            coordinates(self._space, settings, loads),
        )

    def told(self, settings: Places, load: Floats, aim: Places) -> Floats:
        """How much of what is unsure of an aim (knobs,) a window of settings (S, knobs) tells.

        Shares (limits, S) of the variance, by the more probable kind of host.
        """
        kind = self._likeliest
        loads = np.tile(load, (len(settings), 1))
        asked = self._linear(kind, settings, loads)[1:]
        at_aim = self._linear(kind, aim[None], load[None])[1:]
        noise = self.measured.window_variance
        return self._process(kind).told(asked, at_aim, noise)[1:-1]

    @property
    def _likeliest(self) -> float:
        weights = self._weights
        return max(weights, key=lambda kind: weights[kind])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Windows, and where the fit is."""
        fits = [[*fit.z, fit.errors] for fit in self._fits.values()]
        return {**self.measured.state_dict(), "fits": np.array(fits)}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        self.measured.load_state_dict(state)
        for fit, row in zip(self._fits.values(), state["fits"], strict=True):
            fit.z, fit.errors = row[:-1].copy(), float(row[-1])
