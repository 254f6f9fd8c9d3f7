"""The weights that would have done best on the text so far."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.slot_history import SlotHistory
from flyball.policies.ensemble.base import (
    EnsemblePolicy,
    EnsembleSettings,
    Evidence,
    Floats,
    Ints,
    Rows,
)

_FAULTLESS = 1e11  # weight of a member that never differed from the target, before scaling


class TABEDSettings(EnsembleSettings):
    """Settings of the tabed policy."""

    policy: Literal["tabed"] = "tabed"
    rule: Literal["grid", "inverse_kl", "inverse_l1"] = Field(
        default="grid",
        description="'grid': the weights that would have hit the target's token most often; "
        "'inverse_kl', 'inverse_l1': members weigh by their closeness to the target.",
    )
    window: int = Field(
        default=0, ge=0, le=1024, description="Last positions that count; 0: the whole text."
    )


class TABED(EnsemblePolicy):
    """The weights that would have hit most often on the text so far.

    Test-time adaptive batched ensemble drafting (arXiv 2601.20357, and its published code), from
    the history of a text: every accepted position and the first rejected one of each round.

    - "grid", the published main setting: of the weight vectors of a simplex grid of step 0.1,
      that of most positions with argmax_x sum_j w_j q_j(x) = argmax_x p(x); among equals that of
      the least summed KL(p || sum_j w_j q_j), and then the first.
    - "inverse_kl", "inverse_l1": w_j = 1 / (sum over the history of KL(p || q_j), or of
      sum_x |p - q_j|), scaled to sum 1; 1e11 for a sum of 0.

    Equal weights without a history. Texts share nothing and, with the published window of 0,
    forget nothing. A member that is absent at a position is given the mean distance of those
    present: the published drafts always are.
    """

    Settings = TABEDSettings
    settings: TABEDSettings
    reads_kl = True

    def __init__(
        self, settings: TABEDSettings, num_members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, num_members, rng)
        num = len(self.grid) if settings.rule == "grid" else num_members
        self._history = SlotHistory((num, 2), settings.window)

    def evidence(self, sampled: bool) -> Evidence:
        """Hits and divergence of the grid, or distances of the members."""
        return "grid" if self.settings.rule == "grid" else "divergence"

    def admit(self, slots: Ints) -> None:
        """Start without a history."""
        self._history.reset(slots)

    def decide(self, slots: Ints, sampled: bool) -> Floats:
        """The best weights by the history of each request."""
        first, second = np.moveaxis(self._history.total(slots), 2, 0)
        if self.settings.rule == "grid":
            most = first == first.max(axis=1, keepdims=True)
            weights = self.grid[np.where(most, second, np.inf).argmin(axis=1)]
        else:
            distance = first if self.settings.rule == "inverse_kl" else second
            with np.errstate(divide="ignore"):
                weights = np.where(distance > 0.0, 1.0 / distance, _FAULTLESS)
            weights /= weights.sum(axis=1, keepdims=True)
        known = self._history.num_seen(slots) > 0
        return np.where(known[:, None], weights, 1.0 / self.num_members)

    def learn(self, slots: Ints, row: Rows, values: Floats, sampled: bool) -> None:
        """Add positions (N, G, 2) or (N, m, 2) to the histories."""
        absent = np.isnan(values)
        if absent.any():
            some = ~absent.all(axis=(1, 2))
            row, values = row[some], values[some]
            mean = np.nanmean(values, axis=1, keepdims=True)
            values = np.where(absent[some], mean, values)
        self._history.add(slots, row, values)
