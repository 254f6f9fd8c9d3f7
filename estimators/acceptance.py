"""How likely the target is to accept a drafted token, per request."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.drift import DriftDetector
from flyball.estimators.levels import Levels

Floats = NDArray[np.float64]
Slots = NDArray[np.int32]
Cells = NDArray[np.intp]


FLAT_PRIOR = -np.log(0.7)
FRAILTIES = 0.04 * 2.0 ** (np.arange(13) * 0.65)
_FALSE_ALARMS = 1e-4  # of the updates of an unchanging world shorten the shared memory, at most


class AcceptanceEstimator:
    """Hazard of rejection per cell, shared by all requests, times a frailty of each request.

    A cell is whatever sorts drafted tokens by difficulty, such as the position in the draft. With
    cumulative hazard `H[cell]` and request frailty `f[i]`

        P(token accepted) = exp(-f[i] * H[cell]),

    the proportional hazards model. A request's frailty is one of `FRAILTIES`, with probabilities
    that its own record gives (see `Levels`); at first they are those of a Gamma distribution with
    mean 1 and variance 1/2, which fits domains whose acceptance ranges from 0.4 to 0.95. `H` is
    Breslow's estimator, rejections over frailty-weighted exposure (Breslow 1972;
    Clayton 1978 for the frailty). Exposure is what is expected once the outcome is known, the
    E-step of an EM algorithm: f of a request whose draft got that far, which is less than it was
    before the draft, and up to the rejection of a token that was rejected. All counts are
    discounted, so that both follow drift; only observed positions may be given, which is what
    makes censoring harmless. Where rejections come to differ from what was expected of the
    requests (`DriftDetector`), the shared counts lose what the detector's window loses.

    Args:
        prior: (cells,) cumulative hazards believed in before any outcome. What is seen first
            scales all of them together, then each cell goes its own way.
        width: cells in a row that the tokens of a draft pass through, one after the other.
        memory: observed rounds after which a shared count has lost 1 - 1/e of its weight.
    """

    def __init__(
        self,
        prior: Floats,
        width: int,
        memory: float = 400.0,
    ) -> None:
        self._prior = prior
        self._width = width
        self._keep = float(np.exp(-1.0 / memory))
        self._rejections = np.zeros(len(prior))
        self._exposure = np.zeros(len(prior))
        self._levels = Levels(FRAILTIES**2 * np.exp(-2.0 * FRAILTIES))
        self._drift = DriftDetector(_FALSE_ALARMS)
        self.hazard = prior.copy()

    def admit(self, slots: Slots) -> None:
        """Forget what earlier requests in these slots did."""
        self._levels.admit(slots)

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return math.isfinite(self.hazard.sum() + self._levels.weight.values.sum())

    def frailties(self, slots: Slots) -> Floats:
        """Probability (n, frailties) of each of `FRAILTIES`."""
        result: Floats = self._levels.weight.values[slots]
        return result

    def update(
        self,
        slots: Slots,
        cells: Cells,
        rejected: Floats,
        seen: Slots,
        num_rounds: int = 1,
        foreseen: tuple[Slots, Cells, Floats] | None = None,
    ) -> float:
        """Learn from the observed tokens of one or several rounds.

        Args:
            slots: (t,) request of each token.
            cells: (t,) cell of each token.
            rejected: (t,) 1 where the target rejected the token, 0 where it accepted it, or the
                probability that it would have rejected it.
            seen: (r,) the request of each record, once for each round that it was observed in.
            num_rounds: rounds that the tokens come from.
            foreseen: the first three for tokens that nobody saw since they were expected to be
                rejected. They make up for that in the hazards, and are no evidence on a request.

        Returns:
            Share of the shared counts that these tokens left standing.
        """
        if len(slots) == 0:
            return 1.0
        shape = (1 + int(max(slots.max(), seen.max(initial=0))), len(self.hazard))
        place = slots * shape[1] + cells
        size = shape[0] * shape[1]
        misses: Any = np.bincount(place, rejected, size).reshape(shape)
        hits: Any = np.bincount(place, 1.0 - rejected, size).reshape(shape)
        accepting, exposure = self._expect(hits, misses)
        lasting = self._lasting(rejected, accepting.ravel()[place])
        keep = lasting * self._keep**num_rounds
        self._rejections *= keep
        self._rejections += misses.sum(axis=0)
        self._exposure *= keep
        if foreseen is not None:
            place = foreseen[0] * shape[1] + foreseen[1]
            unseen: Any = np.bincount(place, foreseen[2], size).reshape(shape)
            others: Any = np.bincount(place, 1.0 - foreseen[2], size).reshape(shape)
            self._rejections += unseen.sum(axis=0)
            self._exposure += self._expect(others, unseen)[1]
        self._exposure += exposure
        rate = np.maximum(self.hazard[:, None] * FRAILTIES, 1e-9)  # (cells, frailties)
        self._levels.update(misses @ np.log(-np.expm1(-rate)) - hits @ rate, seen)
        # The prior, scaled to what all cells saw, weighs as much as 4 tokens in each of them.
        scale = (2.0 + self._rejections.sum()) / (2.0 + self._prior @ self._exposure)
        self.hazard = (4.0 * scale * self._prior + self._rejections) / (4.0 + self._exposure)
        return lasting

    def _expect(self, hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
        """What is expected of tokens that a draft reaches.

        Args:
            hits: (slots, cells) tokens accepted.
            misses: (slots, cells) tokens rejected.

        Returns:
            Probability (slots, cells) of acceptance, and exposure (cells,) given the outcomes.
        """
        weight = self._levels.weight.values[: len(hits)]
        total = self.hazard.reshape(-1, self._width).cumsum(axis=1).ravel()
        after = np.exp(-FRAILTIES[:, None] * total)  # (frailties, cells)
        lost = np.exp(-FRAILTIES[:, None] * (total - self.hazard)) - after
        share_after, share_lost = weight @ after, np.maximum(weight @ lost, 1e-300)
        exposed_after = weight @ (FRAILTIES[:, None] * after)
        exposed_lost = weight @ (lost / self.hazard - FRAILTIES[:, None] * after)
        share_after = np.maximum(share_after, 1e-300)
        exposure = hits * (exposed_after / share_after) + misses * (exposed_lost / share_lost)
        return share_after / (share_after + share_lost), exposure.sum(axis=0)

    def _lasting(self, rejected: Floats, accepting: Floats) -> float:
        """Share of the shared counts that what is seen now leaves standing.

        Args:
            rejected: (t,) as in `update`.
            accepting: (t,) expected probability that it would be accepted.
        """
        residuals = (rejected + accepting) / 2.0  # shifted into [0, 1]
        cut = self._drift.update(residuals)
        if len(cut.streams) == 0:
            return 1.0
        kept = cut.num_kept[0] - len(residuals)  # these are not in the counts yet
        return float(kept / (kept + cut.num_dropped[0]))
