"""Lengths that follow the last accepted lengths."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from flyball.estimators.slots import SlotArray
from flyball.policies.length.base import Ints, LengthPolicy, LengthSettings, RoundResult, View


class GammaTuneSettings(LengthSettings):
    """Settings of the gamma_tune policy."""

    policy: Literal["gamma_tune"] = "gamma_tune"
    max_draft_len: int = Field(default=10, ge=1, le=64, description="Largest draft length.")
    start_draft_len: int = Field(default=4, ge=1, le=64, description="Of a new request.")
    weight: float = Field(
        default=0.3, gt=0.0, le=1.0, description="Of the last accepted length in the mean."
    )


class GammaTune(LengthPolicy):
    """Two tokens more after full acceptance, otherwise a moving mean of accepted lengths.

    GammaTune (arXiv 2504.00030), per request: where all was accepted g becomes g + 2, otherwise
    the mean m becomes (1 - weight) m + weight A and g = ceil(m), within 1 and `max_draft_len`.
    """

    Settings = GammaTuneSettings
    settings: GammaTuneSettings
    learns = True

    def __init__(self, settings: GammaTuneSettings) -> None:
        super().__init__(settings)
        start = min(settings.start_draft_len, settings.max_draft_len)
        self._draft_len = SlotArray(start, np.int32)
        self._mean = SlotArray(start)

    def admit(self, slots: Ints) -> None:
        """Start new requests at the start length."""
        self._draft_len.reset(slots)
        self._mean.reset(slots)

    def decide(self, view: View) -> Ints:
        """The present length of each request."""
        lengths: Ints = self._draft_len.values[view.slots]
        return np.minimum(lengths, view.max_draft_len, dtype=np.int32)

    def learn(self, result: RoundResult) -> None:
        """Apply the rule to every request that had something verified."""
        drafted = result.proposed > 0
        slots, accepted = result.slots[drafted], result.accepted[drafted]
        full = accepted == result.proposed[drafted]
        mean, lengths = self._mean.values[slots], self._draft_len.values[slots]
        weight = self.settings.weight
        mean = np.where(full, mean, (1.0 - weight) * mean + weight * accepted)
        changed = np.where(full, lengths + 2, np.ceil(mean).astype(np.int32))
        self._mean.values[slots] = mean
        self._draft_len.values[slots] = np.clip(changed, 1, self.settings.max_draft_len)
