"""How likely the target is to accept a drafted token, per request."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.drift import DriftDetector
from flyball.estimators.memories import Memories
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]
Cells = NDArray[np.intp]


FLAT_PRIOR = -np.log(0.7)
_FALSE_ALARMS = 1e-4  # of the updates of an unchanging world shorten the shared memory, at most


class AcceptanceEstimator:
    """Hazard of rejection per cell, shared by all requests, times a frailty of each request.

    A cell is whatever sorts drafted tokens by difficulty, such as the position in the draft. With
    cumulative hazard `H[cell]` and request frailty `f[i]`

        P(token accepted) = exp(-f[i] * H[cell]),

    the proportional hazards model with a Gamma(shape, shape) frailty: the mean over all requests
    is the prior, a request's own record makes its posterior,

        f[i] = (shape + rejections[i]) / (shape + sum of H over the tokens it was observed at),

    and `H` is Breslow's estimator, rejections over frailty-weighted exposure (Breslow 1972;
    Clayton 1978 for the frailty). A rejected token counts the expected exposure until its
    rejection, 1 / r - 1 / (e^r - 1) with r = f * H, the E-step of an EM algorithm. All counts
    are discounted, so that both follow drift; only observed positions may be given, which is
    what makes censoring harmless. Where rejections come to differ from what was expected of the
    requests (`DriftDetector`), the shared counts lose what the detector's window loses.

    A request's own record is kept with several memories (see `Memories`); its frailty is their
    weighted mean.

    Args:
        prior: (cells,) cumulative hazards believed in before any outcome. What is seen first
            scales all of them together, then each cell goes its own way.
        shape: of the Gamma prior; 1 / shape is the variance of the frailty between requests. 2
            fits domains whose acceptance per token ranges from 0.4 to 0.95.
        memory: observed rounds after which a shared count has lost 1 - 1/e of its weight.
        memories: of a request's own record.
    """

    def __init__(
        self,
        prior: Floats,
        shape: float = 2.0,
        memory: float = 400.0,
        memories: Memories | None = None,
    ) -> None:
        self._prior = prior
        self._shape = shape
        self._keep = float(np.exp(-1.0 / memory))
        self._rejections = np.zeros(len(prior))
        self._exposure = np.zeros(len(prior))
        self._memories = memories or Memories()
        self._request_rejections = self._memories.record()
        self._request_exposure = self._memories.record()
        self._request_frailty = self._memories.record(1.0)
        self._frailty = SlotArray(1.0)
        self._drift = DriftDetector(_FALSE_ALARMS)
        self.hazard = prior.copy()

    def admit(self, slots: Slots) -> None:
        """Forget what earlier requests in these slots did."""
        for array in (
            self._request_rejections,
            self._request_exposure,
            self._request_frailty,
            self._memories.weight,
            self._frailty,
        ):
            array.reset(slots)

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return math.isfinite(self.hazard.sum() + self._frailty.values.sum())

    def frailty(self, slots: Slots) -> Floats:
        """How much more often than the average request these are rejected."""  # (n,)
        result: Floats = self._frailty.values[slots]
        return result

    def update(
        self, slots: Slots, cells: Cells, rejected: Floats, seen: Slots, num_rounds: int = 1
    ) -> float:
        """Learn from the observed tokens of one or several rounds.

        Args:
            slots: (t,) request of each token.
            cells: (t,) cell of each token.
            rejected: (t,) 1 where the target rejected the token, 0 where it accepted it, or the
                probability that it would have rejected it.
            seen: (r,) the request of each record, once for each round that it was observed in.
            num_rounds: rounds that the tokens come from.

        Returns:
            Share of the shared counts that these tokens left standing.
        """
        if len(slots) == 0:
            return 1.0
        frailty, hazard = self._frailty.values[slots], self.hazard[cells]
        weight = np.ones(len(slots))
        missed = np.flatnonzero(rejected)
        rate = np.minimum(np.maximum(frailty[missed] * hazard[missed], 1e-6), 100.0)
        weight[missed] -= rejected[missed] * (1.0 - (1.0 / rate - 1.0 / np.expm1(rate)))
        num_cells = len(self.hazard)
        lasting = self._lasting(rejected, frailty * hazard)
        keep = lasting * self._keep**num_rounds
        self._rejections *= keep
        self._rejections += np.bincount(cells, rejected, num_cells)
        self._exposure *= keep
        self._exposure += np.bincount(cells, frailty * weight, num_cells)
        self._learn_requests(slots, hazard, weight, rejected, seen)
        # The prior, scaled to what all cells saw, weighs as much as 4 tokens in each of them.
        scale = (2.0 + self._rejections.sum()) / (2.0 + self._prior @ self._exposure)
        self.hazard = (4.0 * scale * self._prior + self._rejections) / (4.0 + self._exposure)
        return lasting

    def _learn_requests(
        self, slots: Slots, hazard: Floats, weight: Floats, rejected: Floats, seen: Slots
    ) -> None:
        """Learn each request's frailty from tokens (t,) and the exposure `weight` of each."""
        num_slots = len(self._frailty.values)
        num_rejected = np.bincount(slots, rejected, num_slots)[:, None]
        exposed = np.bincount(slots, hazard * weight, num_slots)[:, None]
        frailty = self._request_frailty.values
        self._memories.weigh(num_rejected * np.log(frailty) - exposed * frailty)
        keep = self._memories.keep(seen)
        rejections, exposure = self._request_rejections.values, self._request_exposure.values
        rejections *= keep
        rejections += num_rejected
        exposure *= keep
        exposure += exposed
        np.divide(self._shape + rejections, self._shape + exposure, out=frailty)
        self._frailty.values[:] = self._memories.mean(frailty)

    def _lasting(self, rejected: Floats, rate: Floats) -> float:
        """Share of the shared counts that what is seen now leaves standing.

        Args:
            rejected: (t,) as in `update`.
            rate: (t,) expected hazard of each token.
        """
        residuals = (rejected + np.exp(-rate)) / 2.0  # shifted into [0, 1]
        cut = self._drift.update(residuals)
        if len(cut.streams) == 0:
            return 1.0
        kept = cut.num_kept[0] - len(residuals)  # these are not in the counts yet
        return float(kept / (kept + cut.num_dropped[0]))
